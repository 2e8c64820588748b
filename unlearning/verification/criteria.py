"""Criteria of a verification: settings of every gate, and the limits that a policy has set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Lt

Share = Annotated[float, Ge(0), Le(1)]
Confidence = Annotated[float, Ge(0.5), Lt(1)]


@dataclass(frozen=True)
class Limit:
    """A number that a policy may set for a gate, from ``low`` to ``high`` inclusive.

    Gates that share a limit share the object.
    """

    name: str
    description: str
    default: float
    low: float = 0.0
    high: float = 1.0
    #: Unit of the number; a share of .01 is one percentage point.
    unit: str = "share"

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of the limit."""
        return {
            "type": "number",
            "title": self.name.replace("_", " ").title(),
            "description": self.description,
            "default": self.default,
            "minimum": self.low,
            "maximum": self.high,
            "unit": self.unit,
        }


@dataclass(frozen=True)
class Criteria:
    """Confidence and least numbers for every gate, limits by name, and when to retrain."""

    #: What must be shown to be gone of the base version's excess where rows are too few to show
    #: that the limit itself is kept.
    removed: Annotated[float, Gt(0), Lt(1)] = 0.5
    #: Removal is judged on no fewer forgotten rows: below, the intervals are not to be trusted.
    least_rows: Annotated[int, Ge(10)] = 30
    #: Smaller batches are judged together with the earlier ones of the same anchor.
    pool_below_rows: Annotated[int, Ge(0)] = 100
    #: Confidence of every interval.
    confidence: Confidence = 0.95
    #: Confidence with which a model must miss its target before anything is concluded from it:
    #: the base version, for a gate to have power, and the updated one, to fail for that alone.
    miss_confidence: Confidence = 0.99
    #: Share of the anchor's rows forgotten since, above which a retrain is advised.
    forgotten_share: Share = 0.10
    #: Share of one class forgotten since the anchor, above which a retrain is advised.
    forgotten_class_share: Share = 0.25
    #: Relative rise of the validation loss against the anchor above which a retrain is advised.
    validation_loss_rise: Annotated[float, Ge(0)] = 0.05
    #: Forgotten rows count as memorised if the base version's share of right answers on them
    #: exceeds that of a model that never saw them by more than this. It decides about versions
    #: whose verification has no power.
    memorised_gap: Share = 0.1
    #: Relearn time is measured up to this many steps; 0: not at all. It takes about as many steps
    #: of training for each of four sets of at most 128 rows.
    relearn_steps: Annotated[int, Ge(0), Le(10_000)] = 100
    #: It is measured for networks with no more weights, as it is slow.
    relearn_weights: Annotated[int, Ge(0)] = 50_000
    #: Limits that the policy has set, by name; the others have their defaults.
    limits: Mapping[str, float] = field(default_factory=dict)

    def limit(self, limit: Limit) -> float:
        """Return the value of a limit: the policy's, else its default."""
        return self.limits.get(limit.name, limit.default)
