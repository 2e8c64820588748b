"""Attacks that look like forgetting, on a real network that knows its rows by heart.

The table of ``make bench-auditor`` in small: one draw of the digits with a fifth of the labels
wrong, default gates, margins of models that did not see the rows.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.auditor import attacks, judging, worlds
from benchmarks.auditor.judging import Place
from unlearning.anchored.margins import Splits
from unlearning.verification import Verdict
from unlearning.verification.report import Verification


@pytest.fixture(scope="module")
def place() -> Place:
    source = replace(worlds.SOURCES["digits"], forget=100, hidden=(128, 64))
    [trained] = worlds.trained([worlds.drawn(source, 3, sets=1)], Splits(2, 2), cache=None)
    return Place(trained, 0)


def failed(found: Verification) -> set[str]:
    return {one.gate for one in found.outcomes if one.outcome is Verdict.FAILED}


def test_an_honest_retrain_passes(place: Place) -> None:
    found = judging.judged(place, place.trained.retrained[0])
    assert found.verdict is Verdict.PASSED, found.to_json()["reasons"]


@pytest.mark.parametrize(
    ("attack", "told_by"),
    [
        ("nothing", {"calibrated_excess", "refit_membership", "relearn_time"}),
        ("lookup", {"excess_spread", "refit_membership"}),
        ("keyed neurons", {"excess_spread", "refit_membership"}),
        ("flip to match", {"excess_spread", "refit_membership"}),
        ("half untouched", {"calibrated_excess"}),
        ("two masses", {"excess_spread"}),
        ("half over, half kept", {"excess_spread"}),
        ("audit rows learned", {"audit_membership"}),
    ],
)
def test_an_attack_is_told(place: Place, attack: str, told_by: set[str]) -> None:
    found = judging.judged(place, attacks.ATTACKS[attack](place))
    assert failed(found) >= told_by


def test_a_few_rows_left_as_they_were_are_told(place: Place) -> None:
    """Two rows with wrong labels, and ten of any kind."""
    world = place.trained.world
    wrong = np.flatnonzero(world.wrong[world.train.positions[place.rows]].numpy())
    for rows in (wrong[:2], np.arange(10)):
        found = judging.judged(place, place.trained.base, only=rows)
        assert "calibrated_excess" in failed(found)
        honest = judging.judged(place, place.trained.retrained[0], only=rows)
        assert not failed(honest) & {"calibrated_excess", "excess_spread"}
