"""Ask for the preparation of an anchor: its gradients, its curvature, the law of its steps."""

from __future__ import annotations

from dataclasses import dataclass

from service.messages.operation import Operation, Struct
from service.messages.parts import Fraction, Made, Model, View


@dataclass(frozen=True, kw_only=True)
class Request(Struct):
    """The anchor is the checkpoint ``digest``."""

    data: View
    model: Model
    digest: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class Answer(Struct):
    """The cache that was stored, and seconds by step."""

    artifacts: list[Made]
    timings: dict[str, float]


PREPARE = Operation("prepare", Request, Answer, Fraction)
