"""Every file beside this one is a kind of input; the file's name is the kind's name.

A file defines ``INPUT``, an object of a class derived from ``Input``: how rows are stored and
checked, which transform they take, and what a network is called with. If a source names no kind,
its rows are images if they have three axes, else a table.

A package of your own adds a kind by declaring an entry point in the group ``unlearning.inputs``
whose value is such a module. It is imported where rows are ingested as well as where networks are
computed, so neither it nor this package imports torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unlearning.core import options as parsing
from unlearning.core.plugins import Group
from unlearning.inputs import _declaration
from unlearning.inputs._contract import BadRow, Input, Plain, first
from unlearning.inputs._declaration import Declared

__all__ = [
    "BadRow",
    "Declared",
    "Input",
    "Kind",
    "Plain",
    "facts",
    "first",
    "get",
    "installed",
    "kind",
    "names",
    "of_rows",
]

_GROUP = Group("unlearning.inputs", "kind of input", _declaration.read)

names, get, installed = _GROUP.names, _GROUP.get, _GROUP.installed


@dataclass(frozen=True)
class Kind:
    """A kind of input with the options from a dataset's source."""

    name: str
    input: Input[Any]
    options: Any


def kind(name: str, stated: Mapping[str, Any]) -> Kind:
    """Return the kind ``name`` with these options; raise ``UnknownName`` or ``WrongOptions``."""
    found = get(name).input
    return Kind(name, found, parsing.parse(found.options, stated))


def facts(kind: Kind, shape: Sequence[int], dtype: str) -> dict[str, Any]:
    """Return the facts of its kind of input that a dataset keeps, as JSON.

    These are its ``name`` and ``options``, the ``parameters`` of an architecture that rows of this
    ``shape`` decide, and the ``scale`` by which models multiply them unless their transform says
    otherwise; None: they take no transform; and whether the options were ``learned`` from rows.
    """
    return {
        "name": kind.name,
        "options": dataclasses.asdict(kind.options),
        "parameters": kind.input.parameters(shape, kind.options),
        "scale": kind.input.scales.get(dtype),
        "learned": kind.input.learned,
    }


def of_rows(shape: Sequence[int]) -> str:
    """Return the default kind of rows of this ``shape``."""
    return "image" if len(shape) == 3 else "table"
