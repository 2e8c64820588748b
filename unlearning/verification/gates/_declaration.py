"""The declaration of a gate in its own file, checked before it is used."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from types import ModuleType

from unlearning.errors import BadDeclaration
from unlearning.verification.criteria import Criteria
from unlearning.verification.gates._contract import (
    BatchGate,
    Gate,
    IntegrityGate,
    RemovalGate,
    UtilityGate,
)

_KINDS = (IntegrityGate, UtilityGate, RemovalGate, BatchGate)


def read(name: str, module: ModuleType) -> Gate:
    """Return the gate that ``module`` declares; raise ``BadDeclaration`` if it is wrong."""
    gate = getattr(module, "GATE", None)
    if not isinstance(gate, _KINDS) or gate.name != name:
        raise BadDeclaration("it must define GATE, a gate of this name")
    taken = {field.name for field in fields(Criteria)}.intersection(_limits([gate]))
    if taken:
        raise BadDeclaration(
            f"it calls a limit {', '.join(sorted(taken))}, as criteria of every gate are called"
        )
    return gate


def fits(gate: Gate, beside: Collection[Gate]) -> None:
    """Raise ``BadDeclaration`` if ``gate`` conflicts with another one.

    Gates may share a limit, declared alike. A metric belongs to one gate, whose disclosure decides
    who reads it.
    """
    if gate.metric is not None and gate.metric in {one.metric for one in beside}:
        raise BadDeclaration(f"another gate judges the metric {gate.metric}; rename it")
    known = _limits(beside)
    unlike = [name for name, one in _limits([gate]).items() if known.get(name, one) != one]
    if unlike:
        raise BadDeclaration(f"another gate declares {', '.join(unlike)} otherwise; rename it")


def _limits(gates: Collection[Gate]) -> dict[str, object]:
    return {limit.name: limit for gate in gates for limit in gate.limits}
