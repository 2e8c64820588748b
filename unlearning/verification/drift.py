"""How far a version has moved from its anchor, and whether that exceeds the policy's budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from unlearning.verification.criteria import Criteria


@dataclass(frozen=True)
class Drift:
    """Movement since the anchor."""

    #: ‖θ − θ₀‖ / ‖θ₀‖ over all weights.
    relative_distance: float
    #: Rows forgotten since the anchor, of how many it was trained on.
    forgotten_rows: int
    anchor_rows: int
    #: Largest share of one class forgotten since the anchor, of classes not forgotten as a class.
    largest_class_share: float
    #: Mean validation loss now and at the anchor; None if it was not measured.
    validation_loss: float | None = None
    anchor_validation_loss: float | None = None
    #: Number of forgotten rows in classes that were forgotten as a class.
    of_whole_classes: int = 0

    @property
    def forgotten_share(self) -> float:
        """Return the share of the anchor's rows, without classes that were forgotten as a class."""
        counted = self.forgotten_rows - self.of_whole_classes
        return counted / self.anchor_rows if self.anchor_rows else 0.0

    @property
    def validation_loss_rise(self) -> float | None:
        """Return the relative rise of the validation loss since the anchor."""
        if self.validation_loss is None or not self.anchor_validation_loss:
            return None
        return self.validation_loss / self.anchor_validation_loss - 1

    def over_budget(self, criteria: Criteria) -> tuple[str, ...]:
        """Return why a retrain is advised, as sentences; empty within the budget."""
        reasons = []
        if self.forgotten_share > criteria.forgotten_share:
            share, limit = self.forgotten_share, criteria.forgotten_share
            reasons.append(f"{share:.1%} of the anchor's rows are forgotten (limit {limit:.1%})")
        if self.largest_class_share > criteria.forgotten_class_share:
            share, limit = self.largest_class_share, criteria.forgotten_class_share
            reasons.append(f"{share:.1%} of one class is forgotten (limit {limit:.1%})")
        rise = self.validation_loss_rise
        if rise is not None and rise > criteria.validation_loss_rise:
            limit = criteria.validation_loss_rise
            reasons.append(f"the validation loss rose by {rise:.1%} (limit {limit:.1%})")
        return tuple(reasons)


def relative_distance(weights: Mapping[str, Tensor], anchor: Mapping[str, Tensor]) -> float:
    """Return ‖θ − θ₀‖ / ‖θ₀‖ in float64 over the floating-point tensors that both have."""
    moved = torch.zeros((), dtype=torch.float64)
    size = torch.zeros((), dtype=torch.float64)
    for name, origin in anchor.items():
        if name in weights and origin.is_floating_point():
            start = origin.detach().cpu().double()
            moved += (weights[name].detach().cpu().double() - start).square().sum()
            size += start.square().sum()
    return float((moved / size).sqrt()) if size > 0 else 0.0
