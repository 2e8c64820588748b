import math
from dataclasses import replace

import pytest
import torch

from unlearning.anchored import targets
from unlearning.anchored.margins import OutOfFold
from unlearning.errors import WrongOptions

ROWS = 4000


def _normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _out(values, held_out, folds=2):
    """Return complete margins whose rows lie in the folds in turn."""
    splits, rows = values.shape
    fold = (torch.arange(rows) % folds).expand(splits, rows).clone()
    return OutOfFold(
        values=values,
        fold=fold,
        held_out=held_out,
        never_seen=held_out[:, :, :0],
        epochs=torch.ones(splits, folds, dtype=torch.int64),
    )


def _simulated(splits, *, wide=0.0, tail=0, noise=1.0, own=1.0):
    """Return (margins, own, true τ): τ = 1 + own·φ + N(0, 0.8²), ``tail`` rows further down."""
    phi = 8 + 2 * _normal(ROWS, seed=1)
    truth = 1 + own * phi + 0.8 * _normal(ROWS, seed=2)
    truth[:tail] -= wide * (1 + _normal(tail, seed=3).abs())
    values = truth + noise * _normal(splits, ROWS, seed=4)
    held_out = 8 + 3 * _normal(ROWS, seed=5)
    models = held_out + noise * _normal(splits, 2, ROWS, seed=6)
    # The same scale for all: calibration is not what these tests look at.
    models = (models - models.mean(2, True)) / models.std(2, keepdim=True)
    return _out(values, models * held_out.std() + held_out.mean()), phi, truth, held_out


def test_calibration_undoes_a_change_of_scale_exactly():
    full, held_out = 6 * _normal(50, seed=1), 5 + 3 * _normal(40, seed=2)
    scales = torch.tensor([[0.5, 2.0], [0.8, 1.5]], dtype=torch.float64)
    fold = torch.arange(50) % 2
    out = _out(full * scales[:, fold], scales[:, :, None] * held_out)
    torch.testing.assert_close(targets.calibrate(out, held_out), full.expand(2, 50))


def test_calibration_maps_mean_and_spread_above_zero_and_scales_below_row_by_row():
    held_out = 20 + 4 * _normal(60, seed=1)
    theirs = 12 + 3 * _normal(1, 2, 60, seed=2)
    values = torch.cat([15 + _normal(10, seed=3).abs(), -15 - _normal(10, seed=4).abs()])[None]
    out = _out(values, theirs)
    found = targets.calibrate(out, held_out)[0]
    for i in range(20):
        h, m = theirs[0, i % 2], float(values[0, i])
        if m > 0:
            expected = held_out.mean() + (m - h.mean()) * held_out.std() / h.std()
        else:
            expected = m * (held_out.square().mean() / h.square().mean()).sqrt()
        assert float(found[i]) == pytest.approx(float(expected), abs=1e-4)


def test_calibration_leaves_infinite_margins_and_ignores_infinite_validation_margins():
    held_out = 5 + _normal(30, seed=1)
    theirs = held_out.expand(1, 2, 30).clone()
    theirs[0, :, 4] = -math.inf
    values = torch.tensor([[1.0, -math.inf, math.inf, 2.0]], dtype=torch.float64)
    found = targets.calibrate(_out(values, theirs), held_out)
    torch.testing.assert_close(found, values)


@pytest.mark.parametrize("splits", [2, 4])
def test_reliability_is_that_of_the_simulation(splits):
    out, own, _, held_out = _simulated(splits)
    found = targets.fit(out, own=own, held_out=held_out)
    assert found.reliability == pytest.approx(0.64 / (0.64 + 1 / splits), abs=0.06)
    assert found.spread == pytest.approx(1.0, abs=0.05)
    assert found.splits == splits


def test_ordinary_targets_are_nearer_to_the_truth_than_the_mean_and_memorised_ones_stay():
    out, own, truth, held_out = _simulated(2, wide=10, tail=200)
    found = targets.fit(out, own=own, held_out=held_out)
    mean = targets.calibrate(out, held_out).mean(0)
    error, plain = (found.value - truth).square(), (mean - truth).square()
    assert float(error[200:].mean()) < 0.9 * float(plain[200:].mean())
    assert float((found.value - mean)[:200].abs().median()) < 0.01
    assert abs(float((found.value - truth)[:200].mean())) < 0.15


def test_no_row_is_moved_by_more_than_a_standard_error():
    out, own, _, held_out = _simulated(2, wide=10, tail=200)
    found = targets.fit(out, own=own, held_out=held_out)
    moved = (found.value - targets.calibrate(out, held_out).mean(0)).abs()
    assert float(moved.max()) == pytest.approx(found.spread / math.sqrt(2))


def test_rows_that_unseen_models_get_wrong_keep_their_own_mean():
    """Ordinary rows around zero: those above are shrunk, those below are not."""
    out, own, _, held_out = _simulated(2, own=0.2)
    out = replace(out, values=out.values - 3)
    found = targets.fit(out, own=own, held_out=held_out)
    mean = targets.calibrate(out, held_out).mean(0)
    wrong = mean <= 0
    assert 0.2 < float(wrong.double().mean()) < 0.8
    assert torch.equal(found.value[wrong], mean[wrong])
    assert float((found.value - mean)[~wrong].abs().median()) > 0.05
    assert bool((found.variance[wrong] > found.variance[~wrong].median()).all())


def test_variance_is_what_the_targets_miss_the_truth_by():
    out, own, truth, held_out = _simulated(3, noise=0.6)
    found = targets.fit(out, own=own, held_out=held_out)
    missed = float((found.value - truth).square().mean())
    assert float(found.variance.mean()) == pytest.approx(missed, rel=0.15)


def test_one_split_takes_its_noise_from_the_folds_models_on_validation_rows():
    out, own, _, held_out = _simulated(1)
    found = targets.fit(out, own=own, held_out=held_out)
    expected = out.held_out[0].var(0).mean().sqrt()
    assert found.spread == pytest.approx(float(expected), rel=0.02)
    assert 0 < found.reliability < 1


def test_rows_without_a_finite_margin_have_no_target_and_change_no_other():
    out, own, _, held_out = _simulated(2)
    whole = targets.fit(out, own=own, held_out=held_out)
    out.values[0, 3] = -math.inf
    found = targets.fit(out, own=own, held_out=held_out)
    assert math.isnan(float(found.value[3]))
    assert int(found.value.isnan().sum()) == 1
    torch.testing.assert_close(found.value[4:], whole.value[4:], rtol=0, atol=0.02)


def test_margins_that_are_not_complete_are_refused():
    out, own, _, held_out = _simulated(2)
    out.epochs[1, 1] = 0
    with pytest.raises(WrongOptions, match="complete"):
        targets.fit(out, own=own, held_out=held_out)
    with pytest.raises(WrongOptions, match="at least one split"):
        targets.fit(out.only([]), own=own, held_out=held_out)


def test_targets_survive_a_file():
    out, own, _, held_out = _simulated(2)
    found = targets.fit(out, own=own, held_out=held_out).of(torch.tensor([5, 2]))
    again = targets.from_tensors(found.to_tensors())
    assert torch.equal(again.value, found.value)
    assert torch.equal(again.variance, found.variance)
    assert (again.reliability, again.spread, again.splits) == (
        found.reliability,
        found.spread,
        found.splits,
    )
    assert again.left_out == found.left_out
    with pytest.raises(WrongOptions, match="variance missing"):
        targets.from_tensors({"value": found.value, "numbers": found.value})


def test_only_some_splits_aim():
    out, own, _, held_out = _simulated(3)
    first = targets.fit(out.only([0]), own=own, held_out=held_out)
    out.values[1:] += 100
    assert torch.equal(first.value, targets.fit(out.only([0]), own=own, held_out=held_out).value)


def test_what_leaving_a_fold_out_costs_is_counted_row_by_row():
    held_out = 3 * _normal(200, seed=1)
    theirs = held_out - 0.5 + _normal(1, 4, 200, seed=2)
    found = targets.fit(
        _out(_normal(1, 40, seed=3), theirs, folds=4), own=_normal(40, seed=4), held_out=held_out
    ).left_out
    losses, hits = [], []
    for model in theirs[0]:
        for ours, other in zip(held_out.tolist(), model.tolist(), strict=True):
            losses.append(math.log1p(math.exp(-other)) - math.log1p(math.exp(-ours)))
            hits.append((ours > 0) - (other > 0))
    assert found.share == 0.25
    assert found.loss_rise == pytest.approx(sum(losses) / len(losses))
    assert found.accuracy_drop == pytest.approx(sum(hits) / len(hits))
    rise, drop = found.at(0.05)
    part = math.log(0.95) / math.log(0.75)
    assert (rise, drop) == pytest.approx((part * found.loss_rise, part * found.accuracy_drop))
    assert part < 0.05 / 0.25
    assert found.at(0.5) == (found.loss_rise, found.accuracy_drop)


def test_rows_that_models_without_them_get_wrong_are_nothing_lost():
    out, own, _, held_out = _simulated(2)
    found = targets.fit(out, own=own, held_out=held_out)
    positive = (found.value > 0).nonzero()[:, 0]
    negative = (found.value <= 0).nonzero()[:, 0]
    share = len(positive) / len(found.value)
    assert 0 < share < 1
    assert found.left_out.recognised == pytest.approx(share)
    assert found.left_out.lost(found.value[negative]) == 0
    mixed = torch.cat([positive[:3], negative[:3]])
    assert found.left_out.lost(found.value[mixed]) == pytest.approx(min(6, 3 / share))
    # As many as they are, at most, and as many on the average.
    assert found.left_out.lost(found.value[positive]) == len(positive)
    assert found.left_out.lost(found.value) == pytest.approx(len(found.value))
    unknown = torch.full((4,), math.nan, dtype=torch.float64)
    assert found.left_out.lost(unknown) == 0


def test_models_that_lose_nothing_without_a_fold_allow_nothing():
    held_out = _normal(50, seed=1)
    better = held_out.expand(1, 2, 50) + 2.0
    found = targets.fit(_out(_normal(1, 20), better), own=_normal(20, seed=4), held_out=held_out)
    assert found.left_out.at(0.2) == (0.0, 0.0)


def test_probability_of_a_positive_margin_is_that_of_one_training():
    value = torch.tensor([-2.0, 0.0, 1.5, math.nan], dtype=torch.float64)
    variance = torch.tensor([0.5, 0.1, 0.0, math.nan], dtype=torch.float64)
    found = targets.Targets(value, variance, reliability=0.5, spread=0.7, splits=2)
    shares = found.positive()
    for i in range(3):
        deviation = math.sqrt(float(variance[i]) + 0.49)
        drawn = value[i] + deviation * _normal(200_000, seed=i)
        assert float(shares[i]) == pytest.approx(float((drawn > 0).double().mean()), abs=4e-3)
    assert math.isnan(float(shares[3]))


def test_ordinary_rows_are_told_by_the_likelihoods_of_both_distributions():
    own = _normal(ROWS, seed=1)
    y = 2 + own + _normal(ROWS, seed=2)
    y[: ROWS // 5] += 5 * _normal(ROWS // 5, seed=3)
    found = targets._mixture(y, own)
    squares = (y - found.prior).square()

    def density(weights):
        variance = (weights * squares).sum() / weights.sum()
        return weights.mean() * (-squares / (2 * variance)).exp() / variance.sqrt()

    ordinary, other = density(found.ordinary), density(1 - found.ordinary)
    torch.testing.assert_close(found.ordinary, ordinary / (ordinary + other), rtol=0, atol=1e-3)
