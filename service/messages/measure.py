"""Ask for the scores of an imported version, and whether they contradict its stated rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from service.messages.operation import Operation, Struct
from service.messages.parts import Fraction, Model, View


@dataclass(frozen=True, kw_only=True)
class Request(Struct):
    """Measure the checkpoint ``digest``; ``data`` is as of the revision ``data_revision``."""

    data: View
    data_revision: int
    model: Model
    digest: str


@dataclass(frozen=True, kw_only=True)
class Answer(Struct):
    """The verification as it is stored."""

    verification: dict[str, Any]


MEASURE = Operation("measure", Request, Answer, Fraction)
