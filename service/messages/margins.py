"""Ask for margins of training rows under one more model that never saw them."""

from __future__ import annotations

from dataclasses import dataclass

from service.messages.operation import Operation, Struct
from service.messages.parts import Fraction, Made, Model, View


@dataclass(frozen=True, kw_only=True)
class Request(Struct):
    """Train the model of the next fold, of ``splits`` times ``folds``.

    ``anchor`` is the digest of the anchor's checkpoint. The rows of each group of ``together``
    share a fold. ``resume`` is the digest of the margins so far, None for the first model.
    """

    data: View
    model: Model
    anchor: str
    together: list[list[int]]
    seed: int
    splits: int
    folds: int
    resume: str | None


@dataclass(frozen=True, kw_only=True)
class Answer(Struct):
    """The stored file: the margins so far, or the targets after the last model.

    Its notes are ``splits``, ``folds``, the number of models ``trained``, the ``epochs`` trained
    (over all training rows), the number of ``rows``, and ``complete``: it has targets.
    """

    made: Made


MARGINS = Operation("margins", Request, Answer, Fraction)
