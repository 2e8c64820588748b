"""Parts of several messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from service.messages.operation import Struct

#: What another process needs to open a store (``models_store.Store.ticket``); only the store reads
#: its contents.
Ticket = dict[str, Any]

#: Kinds of internal state.
Internal = Literal["caches", "states", "scores", "logs", "references", "margins", "statistics"]


@dataclass(frozen=True, kw_only=True)
class Architecture(Struct):
    """The name of an installed architecture, and its parameters as announced."""

    name: str
    parameters: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Input(Struct):
    """The name of an installed kind of input, and its options from the source."""

    name: str
    options: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Model(Struct):
    """What is needed to build and train a network; ``transform`` and ``recipe`` as announced.

    ``transform`` is empty if its kind of input takes none.
    """

    architecture: Architecture
    input: Input
    transform: dict[str, Any]
    recipe: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class View(Struct):
    """The arrays of a dataset, and which of its rows may be read.

    ``arrays`` are those of its ingest and of the appends up to the last one that counts, in order;
    rows are numbered through all of them. ``excluded`` rows may not be read; ``trained_on`` replace
    the train split, None: the split itself.
    """

    store: Ticket
    arrays: list[str]
    excluded: list[int]
    trained_on: list[int] | None


@dataclass(frozen=True, kw_only=True)
class Saved(Struct):
    """A file that was stored under its digest."""

    digest: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Made(Saved):
    """Stored internal state, of the version that is made, or ``of_anchor``.

    ``notes`` are shown with it.
    """

    kind: Internal
    notes: dict[str, Any]
    of_anchor: bool


@dataclass(frozen=True, kw_only=True)
class Kept(Struct):
    """The state after ``epoch`` epochs of a training was stored; sent at once."""

    digest: str
    epoch: int


@dataclass(frozen=True, kw_only=True)
class Fraction(Struct):
    """The completed share of a computation, from 0 to 1."""

    fraction: float
