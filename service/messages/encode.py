"""Ask for the features that an encoder makes of rows of token ids."""

from __future__ import annotations

from dataclasses import dataclass

from service.messages.operation import Operation, Struct
from service.messages.parts import Fraction, Ticket


@dataclass(frozen=True, kw_only=True)
class Request(Struct):
    """``rows`` are the token ids of each text, without padding; ``pooling`` is mean or first.

    ``normalise``: each row of features is divided by its norm.
    """

    store: Ticket
    encoder: str
    pooling: str
    normalise: bool
    rows: list[list[int]]


@dataclass(frozen=True, kw_only=True)
class Answer(Struct):
    """A row of features for each row; float32 numbers."""

    features: list[list[float]]


ENCODE = Operation("encode", Request, Answer, Fraction)
