"""Ask whether a version's statistics and weights are those of its training rows."""

from __future__ import annotations

from dataclasses import dataclass

from service.messages.operation import Operation, Struct
from service.messages.parts import Fraction, Model, View


@dataclass(frozen=True, kw_only=True)
class Request(Struct):
    """The version is the checkpoint ``digest``, its statistics are stored as ``statistics``.

    ``data`` are the rows as of the version.
    """

    data: View
    model: Model
    digest: str
    statistics: str


@dataclass(frozen=True, kw_only=True)
class Answer(Struct):
    """The number of training rows, and what does not agree with them; [] if all does."""

    rows: int
    faults: list[str]


CERTIFY = Operation("certify", Request, Answer, Fraction)
