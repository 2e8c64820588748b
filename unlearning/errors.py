"""Errors of the algorithms, independent of HTTP and database."""


class UnlearningError(Exception):
    """Base of every error of this package; the message says what to do next."""


class UnknownName(UnlearningError):
    """No method, architecture or other plug-in of this name is installed."""


class BadDeclaration(UnknownName):
    """An installed package declares a plug-in that cannot be used as it is."""


class WrongOptions(UnlearningError):
    """The options do not fit the method, the architecture or the data."""


class NothingRetained(WrongOptions):
    """All rows are to be forgotten, so no row would be retained; no method or attempt can help."""

    def __init__(self) -> None:
        super().__init__("no row is retained, so there is nothing to train on: withdraw the model")


class UnusableDirection(UnlearningError):
    """The update's direction is zero or not finite, so no step along it is possible."""


class Diverged(UnlearningError):
    """The loss of a training is not finite any more; the same recipe ends so each time."""


class LostRank(UnlearningError):
    """Another process of a computation has ended or does not answer; begin the computation anew."""


class BadTraining(UnlearningError, RuntimeError):
    """Training code of another package raised an error or returned no usable weights.

    A ``RuntimeError`` like those of torch that it may pass on: memory that ran out there is
    recognised by its message.
    """


class NeedsRetrain(UnlearningError):
    """The method cannot do what is requested within its guarantees; retraining can."""
