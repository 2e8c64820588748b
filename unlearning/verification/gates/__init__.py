"""Every file beside this one is a gate; the file's name is the gate's name.

A gate file defines ``GATE``, an ``IntegrityGate``, a ``UtilityGate``, a ``RemovalGate`` (an
excess that batches can be pooled for) or a ``BatchGate`` (a test of the batch's own rows). It
declares the gate's question, the figure and the limits by which it is judged, what it needs, and
who may read the result; no other code refers to a gate by name.

A package of your own adds a gate by declaring an entry point in the group ``unlearning.gates``
whose value is such a module. From then on every verification on that worker includes it.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from importlib import metadata
from typing import Any

from unlearning.errors import UnknownName, WrongOptions
from unlearning.verification.gates._contract import (
    BatchGate,
    Direction,
    Gate,
    IntegrityGate,
    Need,
    RemovalGate,
    Subject,
    UtilityGate,
    audited,
    excess_over,
    excess_over_references,
)

__all__ = [
    "GROUP",
    "BatchGate",
    "Direction",
    "Gate",
    "IntegrityGate",
    "Need",
    "RemovalGate",
    "Subject",
    "UtilityGate",
    "audited",
    "excess_over",
    "excess_over_references",
    "get",
    "installed",
    "names",
]

GROUP = "unlearning.gates"
KINDS = (IntegrityGate, UtilityGate, RemovalGate, BatchGate)


def names() -> list[str]:
    """Return the names of the installed gates, in alphabetical order."""
    return sorted({*_ours(), *_others()})


def get(name: str) -> Gate:
    """Return the gate called ``name``; raise ``UnknownName`` with the names that exist."""
    # Our own files take precedence: an installed package may add a name, never replace one.
    if name in _ours():
        module: Any = importlib.import_module(f"{__name__}.{name}")
    elif name in (others := _others()):
        module = others[name].load()
    else:
        raise UnknownName(f"no gate is called {name!r}; there are: {', '.join(names())}")
    gate = getattr(module, "GATE", None)
    if not isinstance(gate, KINDS) or gate.name != name:
        raise UnknownName(
            f"the entry point {name!r} must be a module that defines GATE, a gate of that name"
        )
    return gate


@functools.cache
def installed() -> tuple[Gate, ...]:
    """Return every gate, by name; raise ``WrongOptions`` if two conflict.

    Gates may share a limit. A metric belongs to one gate, whose disclosure decides who reads it.
    Cached per process: reading what is installed takes tens of milliseconds.
    """
    found = tuple(get(name) for name in names())
    judged = [gate.metric for gate in found if gate.metric is not None]
    twice = sorted({name for name in judged if judged.count(name) > 1})
    limits = [limit for gate in found for limit in gate.limits]
    unlike = sorted({one.name for one in limits for other in limits if _differ(one, other)})
    if twice or unlike:
        raise WrongOptions(
            f"two gates judge the metric or differ in the limit {', '.join(twice + unlike)};"
            " rename it in the one that was installed last"
        )
    return found


def _differ(one: Any, other: Any) -> bool:
    return bool(one.name == other.name and one != other)


def _ours() -> set[str]:
    return {m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")}


def _others() -> dict[str, metadata.EntryPoint]:
    return {point.name: point for point in metadata.entry_points(group=GROUP)}
