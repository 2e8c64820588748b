"""Parts of several messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from service.messages.operation import Struct

#: What a store gives away so that another process can open it (``models_store.Store.ticket``). It
#: is carried, and looked into by the store alone.
Ticket = dict[str, Any]

#: Kinds of internal state.
Internal = Literal["caches", "states", "scores", "logs", "references"]


@dataclass(frozen=True, kw_only=True)
class Architecture(Struct):
    """The name of an installed architecture, and its parameters as it announced them."""

    name: str
    parameters: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Input(Struct):
    """The name of an installed kind of input, and what the source stated about its rows."""

    name: str
    options: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Model(Struct):
    """What a network is built and trained by; ``transform`` and ``recipe`` as announced.

    ``transform`` is empty where its kind of input takes none.
    """

    architecture: Architecture
    input: Input
    transform: dict[str, Any]
    recipe: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class View(Struct):
    """The array of a dataset, and which of its rows may be read.

    ``excluded`` rows may not; ``trained_on`` take the place of the train split, None: the split.
    """

    store: Ticket
    array: str
    excluded: list[int]
    trained_on: list[int] | None


@dataclass(frozen=True, kw_only=True)
class Saved(Struct):
    """A file that was stored under its digest."""

    digest: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Made(Saved):
    """Internal state that was stored: of the version that is made, or ``of_anchor``.

    ``notes`` are shown beside it.
    """

    kind: Internal
    notes: dict[str, Any]
    of_anchor: bool


@dataclass(frozen=True, kw_only=True)
class Kept(Struct):
    """The state after ``epoch`` epochs of a training was stored; the worker is told at once."""

    digest: str
    epoch: int


@dataclass(frozen=True, kw_only=True)
class Fraction(Struct):
    """How much of a computation is done, from 0 to 1."""

    fraction: float
