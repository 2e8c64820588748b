"""Every file beside this one is a gate; the file's name is the gate's name.

A gate file defines ``GATE``, an ``IntegrityGate``, a ``ProofGate`` (one of those, about removal), a
``UtilityGate``, a ``RemovalGate`` (an excess that batches can be pooled for) or a ``BatchGate`` (a
test of the batch's own rows). It declares the gate's question, the figure and the limits by which
it is judged, what it needs, and who may read the result; no other code refers to a gate by name.

A package of your own adds a gate by declaring an entry point in the group ``unlearning.gates``
whose value is such a module. From then on every verification on that worker includes it.
"""

from __future__ import annotations

import functools

from unlearning.core.plugins import Group, Installed
from unlearning.verification.gates import _declaration
from unlearning.verification.gates._contract import (
    BatchGate,
    Direction,
    Gate,
    IntegrityGate,
    Need,
    ProofGate,
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
    "ProofGate",
    "RemovalGate",
    "Subject",
    "UtilityGate",
    "audited",
    "excess_over",
    "excess_over_references",
    "get",
    "installed",
    "loaded",
    "names",
]

GROUP = "unlearning.gates"

_GROUP = Group(__name__, "gate", _declaration.read, fits=_declaration.fits, entry_points=GROUP)

names, get = _GROUP.names, _GROUP.get


@functools.cache
def loaded() -> Installed[Gate]:
    """Return the gates that can be used, and why the others cannot.

    Cached per process: reading what is installed takes tens of milliseconds.
    """
    return _GROUP.installed()


def installed() -> tuple[Gate, ...]:
    """Return the gates that can be used, by name."""
    return tuple(loaded().found.values())
