"""The membership attack's numbers against scikit-learn, double loops and the bootstrap."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from unlearning.verification.attacks import membership
from unlearning.verification.statistics.scores import Floats, Integers


def rounded(seed: int, n_f: int = 60, n_u: int = 150, shift: float = 0.5) -> tuple[Floats, Floats]:
    """Scores with many ties."""
    rng = np.random.default_rng(seed)
    forget, never_seen = rng.normal(shift, 1, n_f), rng.normal(0, 1, n_u)
    return np.round(forget, 1), np.round(never_seen, 1)


@pytest.mark.parametrize("seed", range(5))
def test_auc_is_scikit_learns(seed: int) -> None:
    forget, never_seen = rounded(seed)
    truth = np.r_[np.ones(len(forget)), np.zeros(len(never_seen))]
    expected = roc_auc_score(truth, np.r_[forget, never_seen])
    assert membership.auc([(forget, never_seen)]).value == pytest.approx(expected, abs=1e-12)


def test_auc_counts_every_pair_and_half_of_the_ties() -> None:
    forget, never_seen = rounded(1)
    won = 0.0
    for f in forget:
        for u in never_seen:
            won += 1.0 if f > u else 0.5 if f == u else 0.0
    value = membership.auc([(forget, never_seen)]).value
    assert value == pytest.approx(won / len(forget) / len(never_seen), abs=1e-12)


def test_weighted_auc_is_scikit_learns_with_sample_weights() -> None:
    forget, never_seen = rounded(2)
    weights = np.random.default_rng(0).dirichlet(np.ones(len(never_seen)))
    truth = np.r_[np.ones(len(forget)), np.zeros(len(never_seen))]
    each = np.r_[np.full(len(forget), 1 / len(forget)), weights]
    expected = roc_auc_score(truth, np.r_[forget, never_seen], sample_weight=each)
    value = membership.auc([(forget, never_seen)], weights).value
    assert value == pytest.approx(expected, abs=1e-12)


def test_standard_error_is_that_of_the_bootstrap() -> None:
    forget, never_seen = rounded(3, n_f=80, n_u=160, shift=1.0)
    rng = np.random.default_rng(1)
    drawn = [
        membership.auc([(rng.choice(forget, len(forget)), rng.choice(never_seen, 160))]).value
        for _ in range(2000)
    ]
    estimate = membership.auc([(forget, never_seen)])
    sampled = np.sqrt(np.sum(estimate.forget**2) + np.sum(estimate.never_seen**2))
    assert sampled == pytest.approx(np.std(drawn), rel=0.08)


def test_paired_difference_has_the_bootstraps_standard_error() -> None:
    """Two models on the same rows: far narrower than if the rows had been drawn twice."""
    rng = np.random.default_rng(2)
    forget, never_seen = rng.normal(0.7, 1, 80), rng.normal(0, 1, 160)
    forget_2 = forget + rng.normal(-0.3, 0.3, 80)
    never_seen_2 = never_seen + rng.normal(0, 0.3, 160)
    drawn = []
    for _ in range(2000):
        i, j = rng.integers(0, 80, 80), rng.integers(0, 160, 160)
        first = membership.auc([(forget[i], never_seen[j])]).value
        drawn.append(first - membership.auc([(forget_2[i], never_seen_2[j])]).value)
    one = membership.auc([(forget, never_seen)])
    two = membership.auc([(forget_2, never_seen_2)])
    difference = one.minus(two)
    assert difference.value == pytest.approx(one.value - two.value)
    assert difference.standard_error == pytest.approx(np.std(drawn), rel=0.1)
    assert difference.standard_error < 0.5 * np.hypot(one.standard_error, two.standard_error)


def test_interval_without_signal_covers_one_half_at_nominal_rate() -> None:
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(1000):
        low, high = membership.auc([(rng.normal(size=40), rng.normal(size=120))]).interval(0.95)
        covered += low <= 0.5 <= high
    assert 930 <= covered <= 980


def of_classes(
    rng: np.random.Generator, forget: Integers, never_seen: Integers, *, shift: float = 0.0
) -> tuple[membership.Pair, Floats, membership.Classes]:
    """Classes of very different difficulty; never-seen rows weighted to the forget rows' mix."""
    ours, theirs = (np.repeat(np.arange(len(n)), n) for n in (forget, never_seen))
    pair = rng.normal(ours / 2 + shift, 1), rng.normal(theirs / 2, 1)
    return pair, (forget / forget.sum() / never_seen)[theirs], (ours, theirs)


def test_class_matched_standard_error_equals_stratified_bootstrap() -> None:
    rng = np.random.default_rng(7)
    pair, weights, classes = of_classes(rng, np.array([40, 70, 50]), np.array([90, 60, 120]))

    def again(values: Floats, labels: Integers) -> Floats:
        parts = [values[labels == c] for c in np.unique(labels)]
        return np.concatenate([rng.choice(part, len(part)) for part in parts])

    drawn = [
        membership.auc([(again(pair[0], classes[0]), again(pair[1], classes[1]))], weights).value
        for _ in range(2000)
    ]
    estimate = membership.auc([pair], weights, classes)
    sampled = np.sqrt(np.sum(estimate.forget**2) + np.sum(estimate.never_seen**2))
    assert sampled == pytest.approx(np.std(drawn), rel=0.06)
    assert estimate.value == membership.auc([pair], weights).value


@pytest.mark.seconds
@pytest.mark.parametrize("shift", [0.0, 0.5], ids=["no signal", "signal"])
def test_interval_under_class_matching_covers_as_often_as_it_says(shift: float) -> None:
    rng = np.random.default_rng(8)
    forget = np.array([40, 30, 30, 20, 20, 20, 15, 10, 10, 5])
    draws = [of_classes(rng, forget, 4 * forget[::-1], shift=shift) for _ in range(2000)]
    values = [membership.auc([pair], w).value for pair, w, _ in draws]
    truth = 0.5 if shift == 0 else float(np.mean(values))
    found = [membership.auc([pair], w, classes) for pair, w, classes in draws]
    covered = np.mean([low <= truth <= high for low, high in (e.interval(0.95) for e in found)])
    assert 0.93 <= covered <= 0.97
    without = membership.auc([draws[0][0]], draws[0][1]).standard_error
    assert found[0].standard_error < 0.8 * without


def test_classes_of_one_row_leave_an_interval() -> None:
    rng = np.random.default_rng(9)
    pair, weights, classes = of_classes(rng, np.array([1, 1, 12]), np.array([1, 40, 1]))
    assert membership.auc([pair], weights, classes).standard_error > 0.05
    lone = membership.auc([(np.ones(3), np.zeros(1))], np.ones(1), (np.zeros(3), np.zeros(1)))
    assert lone.standard_error == pytest.approx(np.sqrt(1 / 12 / 3 + 1 / 12))


def test_one_class_is_ordinary_delong() -> None:
    forget, never_seen = rounded(3)
    weights = np.full(len(never_seen), 1 / len(never_seen))
    classes = np.zeros(len(forget)), np.zeros(len(never_seen))
    one = membership.auc([(forget, never_seen)], weights, classes)
    plain = membership.auc([(forget, never_seen)])
    np.testing.assert_allclose(one.forget, plain.forget)
    np.testing.assert_allclose(one.never_seen, plain.never_seen)
    assert one.floor == pytest.approx(plain.floor, rel=0.02)


def test_rows_that_agree_by_chance_are_no_certainty() -> None:
    estimate = membership.auc([(np.array([9.0, 9.1, 9.2]), np.arange(8.0))])
    assert estimate.value == 1.0
    assert estimate.standard_error == pytest.approx(np.sqrt((3 + 8 + 1) / (12 * 3 * 8)))


def test_batches_are_compared_each_with_its_own_models_scores() -> None:
    """A version whose losses are all larger must not look like less membership."""
    forget, never_seen = rounded(5)
    apart = membership.auc([(forget[:20], never_seen), (forget[20:] - 50, never_seen - 50)])
    together = membership.auc([(forget, never_seen)])
    assert apart.value == pytest.approx(together.value, abs=1e-12)
    assert apart.standard_error == pytest.approx(together.standard_error, abs=1e-12)


@pytest.mark.parametrize("at", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("seed", range(3))
def test_true_positive_rate_is_the_best_of_all_thresholds(seed: int, at: float) -> None:
    forget, never_seen = rounded(seed, n_u=130)
    best, alarms = 0.0, 0.0
    for threshold in np.r_[forget, never_seen]:
        false = float(np.mean(never_seen > threshold))
        if false <= at and np.mean(forget > threshold) >= best:
            best, alarms = float(np.mean(forget > threshold)), max(alarms, false)
    rate, realised = membership.true_positive_rate([(forget, never_seen)], at=at)
    assert rate.value == pytest.approx(best)
    assert realised == pytest.approx(alarms)
    assert realised <= at


def test_true_positive_rate_of_tied_scores_claims_nothing() -> None:
    rate, realised = membership.true_positive_rate([(np.zeros(50), np.zeros(100))], at=0.01)
    assert rate.value == 0.0
    assert realised == 0.0


def test_true_positive_rates_interval_holds_the_truth() -> None:
    """Scores N(1,1) against N(0,1): at 5 % false positives the true rate is 25.95 %."""
    rng = np.random.default_rng(6)
    covered = 0
    for _ in range(400):
        pair = (rng.normal(1, 1, 150), rng.normal(0, 1, 300))
        low, high = membership.true_positive_rate([pair], at=0.05)[0].interval(0.95)
        covered += low <= 0.2595 <= high
    assert covered >= 372


@pytest.mark.parametrize("seed", range(3))
def test_a_curve_is_the_true_positive_rate_at_each_of_its_rates(seed: int) -> None:
    forget, never_seen = rounded(seed, n_u=130)
    pairs = [(forget[:20], never_seen), (forget[20:], never_seen + 0.5)]
    weights = np.random.default_rng(seed).dirichlet(np.ones(130))
    rates = [0.01, 0.1, 0.5, 0.85, 1.0]
    for weighted in (None, weights):
        curve = membership.curve(pairs, weighted, at=rates)
        known = [membership.true_positive_rate(pairs, weighted, at=at)[0].value for at in rates]
        assert curve == pytest.approx(known)
        assert curve == sorted(curve)
        assert curve[-1] == 1.0
