"""A verification of few rows ends early only where all rows would have said the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from unlearning import verification
from unlearning.verification import (
    Criteria,
    ModelScores,
    Scores,
    Verdict,
    Verification,
    looks,
    memorised,
)

CLASSES = 5


def _scores(rows: int, *, wrong: int = 0, first: int = 0) -> Scores:
    """Return scores of which the first ``wrong`` rows are misclassified."""
    correct = np.ones(rows, dtype=np.bool_)
    correct[:wrong] = False
    return Scores(
        loss=np.where(correct, 0.1, 2.0) + np.linspace(0, 0.05, rows),
        correct=correct,
        label=np.arange(rows, dtype=np.int64) % CLASSES,
        rows=np.arange(first, first + rows, dtype=np.int64),
    )


def _verified(
    *, audit: int = 1000, wrong: int = 0, forget: int = 1
) -> tuple[Verification, ModelScores]:
    def model(lost: int) -> ModelScores:
        return ModelScores(
            forget=_scores(forget, first=10_000),
            audit=_scores(audit, wrong=lost),
            retain=_scores(400, first=20_000),
            calibration=_scores(200, first=30_000),
        )

    new = model(wrong)
    return verification.verify(new, model(0), changed=True, lineage_clean=True), new


def test_an_update_that_loses_nothing_is_settled_at_the_first_look() -> None:
    assert looks.settled(*_verified())


def test_lost_accuracy_near_its_limit_is_judged_on_more_rows() -> None:
    found, new = _verified(wrong=8)
    # Within the limit at the reported confidence, but not at that of three looks.
    assert looks.settled(*_verified(wrong=1))
    assert not looks.settled(found, new)


def test_a_failure_is_judged_on_all_rows() -> None:
    found, new = _verified(wrong=60)
    assert found.outcome("audit_accuracy").outcome is Verdict.FAILED
    assert not looks.settled(found, new)


def test_a_class_with_few_never_seen_rows_is_judged_on_all_rows() -> None:
    most = CLASSES * looks.LEAST_NEVER_SEEN
    assert looks.settled(*_verified(audit=most + 500))
    found, new = _verified(audit=most + 500)
    rare = replace(new, forget=replace(new.forget, label=np.full(1, CLASSES)))
    assert not looks.settled(found, rare)


def test_an_exceeded_budget_is_judged_on_all_rows() -> None:
    found, new = _verified()
    assert not looks.settled(replace(found, retrain_because=("it drifted",)), new)


def test_memory_that_more_rows_may_show_is_judged_on_all_rows() -> None:
    found, new = _verified()
    criteria = Criteria()

    def memory(wrong: int) -> memorised.Memorised:
        forget, never_seen = _scores(8, first=10_000), _scores(1000, wrong=wrong)
        return memorised.measure(forget, never_seen, updated=forget, criteria=criteria)

    assert looks.settled(found, new, memory(50))
    assert not looks.settled(found, new, memory(420))
    assert memory(500).left
    assert not looks.settled(found, new, memory(500))


@pytest.mark.parametrize(("rows", "several"), [(1, True), (29, True), (30, False), (500, False)])
def test_only_batches_too_small_for_a_judgement_of_their_own_are_read_in_portions(
    rows: int, several: bool
) -> None:
    found = looks.portions(rows, Criteria(), kind="records")
    assert (len(found) > 1) is several
    assert found[-1] == 1.0
    assert looks.portions(rows, Criteria(), kind="class") == (1.0,)
