"""Convert between a policy's ``gates``, a flat object of numbers, and the criteria."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from unlearning.core import options
from unlearning.errors import WrongOptions
from unlearning.verification import gates
from unlearning.verification.criteria import Criteria, Limit

#: The member of ``Criteria`` with the limits that gates declare.
_LIMITS = "limits"
#: Limits of gates that there were; a policy that still names them is not refused.
_RETIRED = frozenset({"true_positive_rate"})


def known() -> dict[str, Limit]:
    """Return the limits that the installed gates declare, by name."""
    return {limit.name: limit for gate in gates.installed() for limit in gate.limits}


def parse(values: Mapping[str, Any]) -> Criteria:
    """Return the criteria of a policy's ``gates``.

    Raise ``WrongOptions`` for a name that neither the criteria nor an installed gate has, and for
    a value out of range.
    """
    declared = known()
    own = {field.name for field in fields(Criteria)} - {_LIMITS}
    values = {name: value for name, value in values.items() if name not in _RETIRED}
    if unknown := sorted(set(values) - own - set(declared)):
        raise WrongOptions(
            f"no installed gate has {', '.join(unknown)}; install the package that adds it on every"
            " worker, or take it out of the policy's gates; there are:"
            f" {', '.join(sorted(own | set(declared)))}"
        )
    criteria = options.parse(Criteria, {k: v for k, v in values.items() if k in own})
    limits = {k: _within(declared[k], v) for k, v in values.items() if k in declared}
    return replace(criteria, limits=limits)


def values(criteria: Criteria) -> dict[str, Any]:
    """Return the criteria as one flat object, with the limit of every installed gate."""
    own = {name: value for name, value in asdict(criteria).items() if name != _LIMITS}
    return own | {name: criteria.limit(limit) for name, limit in known().items()}


def schema() -> dict[str, Any]:
    """Return the JSON schema of the criteria that apply to every gate, without limits."""
    made = options.schema(Criteria)
    del made["properties"][_LIMITS]
    return made


def schema_of(gate: gates.Gate) -> dict[str, Any]:
    """Return the JSON schema of the limits of one gate."""
    properties = {limit.name: limit.schema() for limit in gate.limits}
    return {"type": "object", "title": gate.name, "properties": properties}


def _within(limit: Limit, value: Any) -> float:
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if not limit.low <= number <= limit.high:
        raise WrongOptions(
            f"{limit.name}: must be a number from {limit.low:g} to {limit.high:g} ({limit.unit})"
        )
    return float(number)
