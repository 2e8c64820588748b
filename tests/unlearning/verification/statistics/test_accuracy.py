"""Accuracies and their differences against definitions and simulation."""

import numpy as np
import pytest

from tests.unlearning.verification.evidence import scores
from unlearning.verification.statistics import accuracy


def hits(values: object) -> object:
    correct = np.asarray(values, dtype=np.bool_)
    return scores(np.where(correct, 0.1, 2.0), correct=correct)


def test_gap_is_the_difference_of_the_class_weighted_accuracies() -> None:
    forget = scores([0.1, 0.1, 2.0, 0.1], label=[0, 0, 0, 1])
    audit = scores([0.1, 2.0, 2.0, 0.1], label=[0, 0, 1, 1])
    weights = np.array([0.375, 0.375, 0.125, 0.125])
    found = accuracy.gap([(forget, audit)], weights)
    assert found.value == pytest.approx(3 / 4 - (0.75 * 1 / 2 + 0.25 * 1 / 2))


def test_gap_between_batches_weighs_each_model_by_its_forget_rows() -> None:
    good, bad = hits([1, 1, 1, 1]), hits([0, 0, 0, 0])
    one, three = hits([1]), hits([1, 1, 1])
    found = accuracy.gap([(one, good), (three, bad)], np.full(4, 0.25))
    assert found.value == pytest.approx(1 - 1 / 4)


def test_gap_covers_its_truth_where_one_class_is_harder_than_another() -> None:
    """Classes right in 95, 60 and 25 of 100 rows: that they differ is no noise in the gap."""
    rng = np.random.default_rng(1)
    ours, theirs = np.repeat([0, 1, 2], [40, 30, 50]), np.repeat([0, 1, 2], [100, 140, 60])
    share = np.array([0.95, 0.6, 0.25])
    weights = (np.array([40, 30, 50]) / 120 / np.array([100, 140, 60]))[theirs]
    covered, errors, values = 0, [], []
    for _ in range(1000):
        forget, audit = (
            scores(np.ones(len(c)), label=c, correct=rng.random(len(c)) < share[c])
            for c in (ours, theirs)
        )
        found = accuracy.gap([(forget, audit)], weights)
        low, high = found.interval(0.95)
        covered += low <= 0 <= high
        errors.append(found.standard_error)
        values.append(found.value)
    assert 930 <= covered <= 970
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.08)


def test_drop_counts_the_rows_on_which_the_models_disagree() -> None:
    found = accuracy.drop(hits([1, 1, 1, 0, 0]), hits([1, 0, 0, 1, 0]))
    assert found.value == pytest.approx((2 - 1) / 5)


def test_drops_interval_covers_the_truth_as_often_as_it_says() -> None:
    """5 % of rows are lost, 2 % won: a true drop of 3 points on 300 rows."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        kind = rng.choice(4, 300, p=[0.05, 0.02, 0.73, 0.20])
        before, after = (kind == 0) | (kind == 2), (kind == 1) | (kind == 2)
        low, high = accuracy.drop(hits(before), hits(after)).interval(0.95)
        covered += low <= 0.03 <= high
    assert 930 <= covered <= 985


def test_agreement_on_few_rows_has_nonzero_error() -> None:
    few = accuracy.drop(hits(np.ones(20)), hits(np.ones(20)))
    many = accuracy.drop(hits(np.ones(2000)), hits(np.ones(2000)))
    assert few.interval(0.95)[1] > 0.05
    assert many.interval(0.95)[1] < 0.002


def test_accuracy_of_all_hits_has_an_interval_with_a_width() -> None:
    low, high = accuracy.accuracy(hits(np.ones(40))).interval(0.95)
    assert 0.85 < low < 0.95
    assert high == 1.0


def test_description_gives_every_class_its_own_figures() -> None:
    found = accuracy.describe(scores([0.1, 2.0, 0.2], label=[0, 0, 1]), confidence=0.95)
    assert found["rows"] == 3
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["loss"] == pytest.approx(2.3 / 3)
    assert found["classes"]["0"]["accuracy"] == pytest.approx(0.5)
    assert found["classes"]["1"]["rows"] == 1


def test_an_empty_set_is_described_without_numbers() -> None:
    found = accuracy.describe(scores([]), confidence=0.95)
    assert (found.pop("rows"), found.pop("classes")) == (0, {})
    assert set(found.values()) == {None}
