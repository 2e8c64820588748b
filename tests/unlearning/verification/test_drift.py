"""Movement since the anchor and the policy's budget."""

import pytest
import torch

from unlearning.verification import drift
from unlearning.verification.criteria import Criteria
from unlearning.verification.drift import Drift


def test_relative_distance_is_norm_of_difference_over_norm_of_anchor() -> None:
    anchor = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[4.0]])}
    moved = {"a": torch.tensor([3.0, 0.3]), "b": torch.tensor([[4.4]])}
    assert drift.relative_distance(moved, anchor) == pytest.approx(0.1)
    assert drift.relative_distance(anchor, anchor) == 0.0


def test_counters_and_integer_tensors_do_not_count_as_movement() -> None:
    anchor = {"a": torch.ones(2), "steps": torch.tensor(1)}
    assert drift.relative_distance({"a": torch.ones(2), "steps": torch.tensor(9)}, anchor) == 0.0


def test_each_spent_budget_is_a_reason_to_retrain() -> None:
    within = Drift(0.01, 100, 1000, 0.25, validation_loss=1.04, anchor_validation_loss=1.0)
    assert within.over_budget(Criteria()) == ()
    spent = Drift(0.01, 101, 1000, 0.3, validation_loss=1.2, anchor_validation_loss=1.0)
    reasons = spent.over_budget(Criteria())
    assert len(reasons) == 3
    assert "10.1%" in reasons[0]
    assert "one class" in reasons[1]
    assert "validation loss rose by 20.0%" in reasons[2]


def test_a_loss_that_was_not_measured_has_no_rise() -> None:
    assert Drift(0.0, 0, 0, 0.0).validation_loss_rise is None
    assert Drift(0.0, 0, 0, 0.0).over_budget(Criteria()) == ()
