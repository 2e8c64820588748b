"""What can go wrong in the mathematics. Nothing here knows HTTP or a database."""


class UnlearningError(Exception):
    """Base of every error of this package; the message says what to do next."""


class UnknownName(UnlearningError):
    """A method or an architecture that is not installed."""


class BadDeclaration(UnknownName):
    """An installed package declares a method that cannot be used as it stands."""


class WrongOptions(UnlearningError):
    """Options that do not fit the method, the architecture or the data."""


class NothingRetained(WrongOptions):
    """All rows are to be forgotten: no method can, and no attempt will; nothing is left to keep."""

    def __init__(self) -> None:
        super().__init__("no row is retained, so there is nothing to train on: withdraw the model")


class UnusableDirection(UnlearningError):
    """The update's direction is zero or not finite, so no step along it means anything."""


class Diverged(UnlearningError):
    """A training whose loss is no number any more: the same recipe ends so each time."""


class NeedsRetrain(UnlearningError):
    """The method cannot do what is asked within its guarantees; retraining can."""
