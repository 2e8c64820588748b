"""An approximate and an exact model, side by side."""

from __future__ import annotations

import numpy as np
import pytest

from unlearning.verification import Scores, compare, loses_accuracy, parse_criteria

from .evidence import scores


def _right(count: int) -> Scores:
    """400 rows of which ``count`` are classified rightly."""
    return scores(np.where(np.arange(400) < count, 0.1, 3.0))


@pytest.mark.parametrize(
    ("name", "limit"), [("audit", "audit_accuracy_drop"), ("retain", "retain_accuracy_drop")]
)
def test_accuracy_loss_counts_beyond_the_limit_of_the_set(name: str, limit: str) -> None:
    compared = compare({name: _right(400)}, {name: _right(360)})
    assert compared[name]["accuracy"]["difference"]["value"] == pytest.approx(-0.1)
    assert loses_accuracy(compared, parse_criteria({}))
    assert not loses_accuracy(compared, parse_criteria({limit: 0.2}))


def test_accuracy_won_and_sets_that_no_gate_judges_are_no_loss() -> None:
    worse, better = _right(360), _right(400)
    assert not loses_accuracy(compare({"audit": worse}, {"audit": better}), parse_criteria({}))
    other = compare({"calibration": better}, {"calibration": worse})
    assert not loses_accuracy(other, parse_criteria({}))
