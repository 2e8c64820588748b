"""What a broken promise comes to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """The rows of the table at the end."""

    LOST = "lost"
    REPEATED = "repeated"
    RESURRECTED = "resurrected"
    STILL_LIVE = "still live"
    MISSING = "answered 2xx and missing"
    CANCELLED = "cancelled and carried out"
    OTHER = "anything else"


@dataclass(frozen=True)
class Broken:
    """A promise that does not hold, in words."""

    kind: Kind
    words: str


def of(kind: Kind, words: Iterable[str]) -> list[Broken]:
    """The same kind for several."""
    return [Broken(kind, one) for one in words]
