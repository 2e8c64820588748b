"""Ask whether an architecture accepts its data, and which weights it has."""

from __future__ import annotations

from dataclasses import dataclass

from service.messages.operation import Operation, Struct
from service.messages.parts import Fraction, Model, View


@dataclass(frozen=True, kw_only=True)
class Request(Struct):
    """``features`` are the names of a table's columns; [] if they are not known."""

    data: View
    model: Model
    classes: int
    features: list[str]


@dataclass(frozen=True, kw_only=True)
class Weight(Struct):
    """The shape and the dtype of a tensor, such as ``float32``."""

    shape: list[int]
    dtype: str


@dataclass(frozen=True, kw_only=True)
class Answer(Struct):
    """Weights by name; ``tied`` are groups of names that are one tensor."""

    parameters: dict[str, Weight]
    tied: list[list[str]]


DESCRIBE = Operation("describe", Request, Answer, Fraction)
