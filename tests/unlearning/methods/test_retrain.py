from dataclasses import replace

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from unlearning import architectures
from unlearning.architectures import Transform
from unlearning.core import objective, training
from unlearning.core.examples import Examples
from unlearning.core.update_log import UpdateLog
from unlearning.errors import NothingRetained, WrongOptions
from unlearning.methods import Context, retrain

RECIPE = training.Recipe(epochs=3, batch_size=32, learning_rate=5e-3)


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _fresh():
    return architectures.classifier(
        "mlp", {"inputs": 64, "hidden": [20]}, Transform(scale=1 / 16), generator=_generator(4)
    )


@pytest.fixture
def digits():
    data = load_digits()
    return Examples(torch.tensor(data.images, dtype=torch.float32), torch.tensor(data.target))


@pytest.fixture
def context(digits):
    return Context(calibration=digits.subset(torch.arange(1000, 1300)), fresh=_fresh, recipe=RECIPE)


def _retrain(digits, context, options=None):
    return retrain.unlearn(
        _fresh(),
        digits.subset(torch.arange(40)),
        digits.subset(torch.arange(40, 600)),
        options=options or retrain.Options(),
        context=context,
        generator=_generator(),
    )


def test_retraining_is_the_first_training_without_the_forgotten_rows(digits, context):
    update = _retrain(digits, context)
    fit = training.fit(
        _fresh(),
        digits.subset(torch.arange(40, 600)),
        context.calibration,
        recipe=RECIPE,
        generator=_generator(),
    )
    assert torch.equal(objective.flatten(update.model), objective.flatten(fit.model))
    assert update.is_anchor
    assert update.notes["validation_accuracy"] == fit.history[fit.best_epoch].validation_accuracy


def test_forgotten_rows_are_not_read(digits, context):
    clean = objective.flatten(_retrain(digits, context).model)
    digits.x[:40] = float("nan")
    assert torch.equal(objective.flatten(_retrain(digits, context).model), clean)


def test_a_forgotten_class_does_not_choose_the_epoch(digits, context):
    zeros = digits.labels == 0
    update = retrain.unlearn(
        _fresh(),
        digits.subset((zeros[:600]).nonzero()[:, 0]),
        digits.subset((~zeros[:600]).nonzero()[:, 0]),
        options=retrain.Options(),
        context=replace(context, kind="class"),
        generator=_generator(),
    )
    kept = context.calibration.subset((context.calibration.labels != 0).nonzero()[:, 0])
    correct = objective.correct(update.model, kept).double().mean()
    assert update.notes["validation_accuracy"] == float(correct)


def test_options_can_shorten_the_training(digits, context):
    assert _retrain(digits, context, retrain.Options(epochs=1)).notes["epochs"] == 1


def test_new_weights_get_a_log_of_their_own(digits, context):
    old = UpdateLog(max_bytes=10**8)
    old.append(torch.arange(3), torch.ones(5))
    update = _retrain(digits, replace(context, update_log=old))
    assert len(old) == 1
    start = objective.flatten(_fresh())
    torch.testing.assert_close(
        start + sum(update.update_log.deltas), objective.flatten(update.model)
    )


def test_batch_norm_statistics_come_from_the_retained_rows(digits, context):
    def fresh():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))

    update = _retrain(digits, replace(context, fresh=fresh))
    retained = digits.x[40:600].flatten(1)
    torch.testing.assert_close(update.model[1].running_mean, retained.mean(0))


@pytest.mark.parametrize("missing", ["fresh", "recipe", "calibration"])
def test_what_is_missing_is_said(digits, context, missing):
    with pytest.raises(WrongOptions, match="retraining needs"):
        _retrain(digits, replace(context, **{missing: None}))


def test_nothing_retained_is_refused(digits, context):
    with pytest.raises(NothingRetained, match="nothing to train on"):
        retrain.unlearn(
            _fresh(),
            digits,
            digits.subset(torch.arange(0)),
            options=retrain.Options(),
            context=context,
            generator=_generator(),
        )
