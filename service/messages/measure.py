"""Ask how an imported version scores, and whether that agrees with what was said of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from service.messages.operation import Operation, Struct
from service.messages.parts import Fraction, Model, View


@dataclass(frozen=True, kw_only=True)
class Request(Struct):
    """The checkpoint ``digest`` is measured; ``data_revision`` is the one that ``data`` is of."""

    data: View
    data_revision: int
    model: Model
    digest: str


@dataclass(frozen=True, kw_only=True)
class Answer(Struct):
    """The verification as it is stored."""

    verification: dict[str, Any]


MEASURE = Operation("measure", Request, Answer, Fraction)
