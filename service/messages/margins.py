"""Ask for margins of training rows under one more model that never saw them."""

from __future__ import annotations

from dataclasses import dataclass

from service.messages.operation import Operation, Struct
from service.messages.parts import Fraction, Made, Model, View


@dataclass(frozen=True, kw_only=True)
class Request(Struct):
    """Train the model of the next fold, of ``splits`` times ``folds``.

    ``anchor`` is the digest of the checkpoint whose rows ``data`` has. ``resume`` is the digest of
    what the models before gave, None: this is the first, and the rows of each group of ``together``
    share their folds.
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
    """What was stored: margins so far, or, after the last model, the targets made of them.

    Its notes are ``splits``, ``folds``, how many models were ``trained``, the ``epochs`` that they
    took over all training rows, the ``rows``, and whether it is ``complete``.
    """

    made: Made


MARGINS = Operation("margins", Request, Answer, Fraction)
