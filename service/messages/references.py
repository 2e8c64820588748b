"""Ask for a reference model, trained without the rows that were drawn out of it."""

from __future__ import annotations

from dataclasses import dataclass

from service.messages.operation import Operation, Struct
from service.messages.parts import Fraction, Made, Model, View


@dataclass(frozen=True, kw_only=True)
class Request(Struct):
    """Model ``index`` of ``count``; the rows of each group of ``together`` share their draw.

    ``by_class``: it is trained without the rows of whole classes.
    """

    data: View
    model: Model
    together: list[list[int]]
    seed: int
    index: int
    count: int
    by_class: bool


@dataclass(frozen=True, kw_only=True)
class Answer(Struct):
    """The model that was stored."""

    artifacts: list[Made]


REFERENCES = Operation("references", Request, Answer, Fraction)
