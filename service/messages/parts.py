"""Parts of several messages."""

from __future__ import annotations

from dataclasses import dataclass

from service.messages.operation import Struct


@dataclass(frozen=True, kw_only=True)
class Fraction(Struct):
    """How much of a computation is done, from 0 to 1."""

    fraction: float
