"""Attacks that look like forgetting, on a real network that knows its rows by heart.

The table of ``make bench-auditor`` in small: one draw of the digits with a fifth of the labels
wrong, default gates, margins of models that did not see the rows.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.auditor import scoring, worlds
from benchmarks.auditor.judging import judged
from benchmarks.auditor.scoring import BASE, HONEST, Case, Scored
from benchmarks.auditor.worlds import Trained
from unlearning.anchored.margins import Splits
from unlearning.verification import Verdict
from unlearning.verification.report import Verification


@pytest.fixture(scope="module")
def trained() -> Trained:
    source = replace(worlds.SOURCES["digits"], forget=100, hidden=(128, 64))
    [found] = worlds.trained([worlds.drawn(source, 3, sets=1)], Splits(2, 2), cache=None)
    return found


@pytest.fixture(scope="module")
def scored(trained: Trained) -> Scored:
    return scoring.scored(trained, attacked=1, small=0)


def failed(found: Verification) -> set[str]:
    return {one.gate for one in found.outcomes if one.outcome is Verdict.FAILED}


def of(scored: Scored, name: str) -> Verification:
    [case] = [one for one in scored.cases if one.name == name]
    return judged(scored, case)


@pytest.mark.seconds
def test_an_honest_retrain_does_not_fail(scored: Scored) -> None:
    found = of(scored, HONEST)
    assert not failed(found), found.to_json()["reasons"]


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
def test_an_attack_is_told(scored: Scored, attack: str, told_by: set[str]) -> None:
    found = of(scored, attack)
    assert found.verdict is Verdict.FAILED
    assert failed(found) >= told_by


def test_a_few_rows_left_as_they_were_are_told(trained: Trained, scored: Scored) -> None:
    """Two rows with wrong labels, and ten of any kind."""
    world = trained.world
    wrong = np.flatnonzero(world.wrong[world.train.positions[world.sets[0]]].numpy())
    for rows in (wrong[:2], np.arange(10)):
        found = judged(scored, Case(BASE, 0, "0/base", rows))
        assert "calibrated_excess" in failed(found)
        honest = judged(scored, Case(HONEST, 0, f"0/{HONEST}", rows))
        assert not failed(honest) & {"calibrated_excess", "excess_spread"}
