"""Never-seen rows take the class mix of the forget rows, also over several batches."""

import numpy as np
import pytest

from tests.unlearning.verification.evidence import scores
from unlearning.errors import WrongOptions
from unlearning.verification import Evidence, ModelScores, Verdict, measures, verify
from unlearning.verification.statistics import matching


def batch(forget_label: list[int], audit_label: list[int], audit_rows: list[int]) -> Evidence:
    model = ModelScores(
        forget=scores(np.ones(len(forget_label)), label=forget_label),
        audit=scores(np.array(audit_rows) / 10, label=audit_label, rows=audit_rows),
    )
    return Evidence(model, model)


@pytest.mark.usefixtures("any_number")
def test_never_seen_rows_get_the_class_mix_of_the_forget_rows() -> None:
    found = matching.match([batch([0, 0, 0, 1], [0, 0, 1, 1, 1, 2], [1, 2, 3, 4, 5, 6])])
    label = found.batches[0].unlearned.audit.label
    assert label.tolist() == [0, 0, 1, 1, 1]
    assert np.sum(found.weights[label == 0]) == pytest.approx(0.75)
    assert np.sum(found.weights[label == 1]) == pytest.approx(0.25)
    assert len(np.unique(found.weights[label == 1])) == 1


@pytest.mark.usefixtures("any_number")
def test_forget_rows_without_never_seen_class_are_left_out_and_counted() -> None:
    found = matching.match([batch([0, 7, 7], [0, 1], [1, 2])])
    assert found.unmatched == 2
    assert found.forget_rows == 1


@pytest.mark.usefixtures("any_number")
def test_batches_are_aligned_on_the_never_seen_rows_that_are_left() -> None:
    """A record of the audit split may itself have been deleted between two batches."""
    first = batch([0, 0], [0, 0, 0], [11, 12, 13])
    second = batch([0], [0, 0], [13, 11])
    found = matching.match([second, first])
    assert len(found.batches) == 2
    for aligned in found.batches:
        assert aligned.unlearned.audit.rows.tolist() == [11, 13]
        assert aligned.unlearned.audit.loss.tolist() == [1.1, 1.3]
    assert found.forget_rows == 3


def test_classes_of_few_never_seen_rows_are_not_compared() -> None:
    labels = [0] * 8 + [1] * 7
    found = matching.match([batch([0, 0, 1, 1, 1], labels, list(range(15)))])
    assert (found.forget_rows, found.unmatched, found.never_seen_rows) == (2, 3, 8)
    none = matching.match([batch([1, 1], labels, list(range(15)))])
    assert (none.forget_rows, none.never_seen_rows) == (0, 0)


@pytest.mark.parametrize("seed", range(5))
def test_one_never_seen_row_of_the_class_is_no_power(seed: int) -> None:
    """However a model answers it, nothing can be concluded from a single row."""
    random = np.random.default_rng(seed)
    label = np.r_[np.zeros(1), np.ones(200)]
    forget, audit = random.exponential(size=60), random.exponential(size=201)
    model = ModelScores(scores(forget, label=np.zeros(60)), scores(audit, label=label))
    control = ModelScores(scores(forget / 9, label=np.zeros(60)), model.audit)
    found = verify(model, control, changed=True, lineage_clean=True)
    assert found.verdict is Verdict.NO_POWER
    assert "8 never-seen rows" in found.outcome("membership").reason


def test_scores_of_different_rows_are_refused() -> None:
    one = batch([0, 0], [0], [1]).unlearned
    other = batch([0, 0], [0], [2]).unlearned
    with pytest.raises(WrongOptions, match="different audit rows"):
        Evidence(one, other)


def test_a_class_that_is_easy_does_not_look_like_membership() -> None:
    """All forget rows are of an easy class; against all never-seen rows they would stand out."""
    rng = np.random.default_rng(0)
    easy, hard = rng.normal(1, 0.1, 300), rng.normal(3, 0.1, 300)
    model = ModelScores(
        forget=scores(rng.normal(1, 0.1, 200), label=np.zeros(200)),
        audit=scores(np.r_[easy, hard], label=np.r_[np.zeros(300), np.ones(300)]),
    )
    auc = measures.membership_auc(matching.match([Evidence(model, model)])).unlearned
    low, high = auc.interval(0.99)
    assert low < 0.5 < high
    naive = np.mean(model.forget.loss[:, None] < model.audit.loss[None, :])
    assert naive > 0.7
