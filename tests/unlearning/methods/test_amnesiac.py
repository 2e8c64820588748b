import copy
from dataclasses import replace

import pytest
import torch

from unlearning.core import objective
from unlearning.core.update_log import UpdateLog
from unlearning.errors import NeedsRetrain, WrongOptions
from unlearning.methods import amnesiac


def _unlearn(task, forget, retain, log, epochs=0, **options):
    return amnesiac.unlearn(
        task.model,
        forget,
        retain,
        options=amnesiac.Options(epochs=epochs, **options),
        context=replace(task.context, update_log=log),
        generator=torch.Generator().manual_seed(0),
    )


def test_taking_back_every_batch_gives_the_initial_weights(digits_mlp):
    log = digits_mlp.context.update_log
    start = objective.flatten(digits_mlp.untrained)
    # Every batch holds one of the first 900 of 1,000 rows.
    update = _unlearn(digits_mlp, *digits_mlp.records(900), log)
    assert update.notes["batches_taken_back"] == len(log)
    assert torch.allclose(objective.flatten(update.model), start, atol=1e-6)
    assert not torch.allclose(objective.flatten(digits_mlp.model), start, atol=1e-2)


def test_only_the_batches_that_held_the_row_are_taken_back(digits_mlp):
    log = digits_mlp.context.update_log
    forget, retain = digits_mlp.records(1)
    batches = [i for i, rows in enumerate(log.rows) if 0 in rows.tolist()]
    assert amnesiac.holding(log, forget.positions) == batches
    # One batch of every epoch held it.
    assert 0 < len(batches) <= 15
    expected = objective.flatten(digits_mlp.model) - sum(log.deltas[i] for i in batches)
    update = _unlearn(digits_mlp, forget, retain, log)
    assert torch.allclose(objective.flatten(update.model), expected, atol=1e-6)


def test_forgetting_twice_takes_no_batch_back_twice(digits_mlp):
    log = digits_mlp.context.update_log
    both, retain = digits_mlp.records(6)
    first, second = both.subset(torch.arange(3)), both.subset(torch.arange(3, 6))
    once = _unlearn(digits_mlp, both, retain, log)
    half = _unlearn(digits_mlp, first, retain, log)
    whole = _unlearn(replace(digits_mlp, model=half.model), second, retain, half.update_log)
    assert len(log) > len(half.update_log) > len(whole.update_log) == len(once.update_log)
    assert torch.allclose(objective.flatten(whole.model), objective.flatten(once.model), atol=1e-6)


def test_healing_brings_the_accuracy_back(digits_mlp):
    log = digits_mlp.context.update_log
    forget, retain = digits_mlp.records(3)
    cut = _unlearn(digits_mlp, forget, retain, log)
    healed = _unlearn(digits_mlp, forget, retain, log, epochs=5)

    def loss(update):
        return float(objective.losses(update.model, digits_mlp.test).mean())

    assert loss(healed) < loss(cut)


def test_calibrated_strength_takes_the_steps_back_whole_too(digits_mlp):
    log = digits_mlp.context.update_log
    forget, retain = digits_mlp.records(1)
    without = _unlearn(digits_mlp, forget, retain, log)
    # Healing that moves nothing: whatever of it is kept, the steps must be gone.
    update = _unlearn(
        digits_mlp,
        forget,
        retain,
        log,
        epochs=1,
        strength="calibrated",
        learning_rate=1e-12,
        guard_rise=1.0,
    )
    assert len(update.update_log) == len(without.update_log)
    assert torch.allclose(
        objective.flatten(update.model), objective.flatten(without.model), atol=1e-6
    )


def test_calibrated_strength_heals_until_the_guard_holds(digits_mlp):
    log = digits_mlp.context.update_log
    forget, retain = digits_mlp.records(3)
    cut = _unlearn(digits_mlp, forget, retain, log)
    update = _unlearn(digits_mlp, forget, retain, log, epochs=1, strength="calibrated")
    held_out = digits_mlp.context.calibration
    before, broken, healed = (
        float(objective.losses(model, held_out).double().mean())
        for model in (digits_mlp.model, cut.model, update.model)
    )
    assert broken > before + 0.01
    assert healed <= before + 0.01
    assert update.notes["epochs"] >= 1


def test_healing_that_ends_past_the_guard_needs_a_retrain(digits_mlp):
    log = digits_mlp.context.update_log
    with pytest.raises(NeedsRetrain, match="allow more epochs, or retrain"):
        _unlearn(digits_mlp, *digits_mlp.records(3), log, epochs=0, strength="calibrated")


def test_asks_for_a_retrain_when_most_batches_held_a_forgotten_row(digits_mlp):
    log = digits_mlp.context.update_log
    few = _unlearn(digits_mlp, *digits_mlp.records(1), log)
    many = _unlearn(digits_mlp, *digits_mlp.records(200), log)
    assert not few.retrain_because
    assert "100%" in many.retrain_because[0]


def test_missing_log_is_named(digits_mlp):
    with pytest.raises(WrongOptions, match="log of training updates"):
        _unlearn(digits_mlp, *digits_mlp.records(3), None)


def test_log_that_ran_full_needs_a_retrain(digits_mlp):
    whole = digits_mlp.context.update_log
    short = UpdateLog(max_bytes=whole.size_bytes // 2)
    for rows, delta in zip(whole.rows, whole.deltas, strict=True):
        short.append(rows, delta)
    assert not short.complete
    with pytest.raises(NeedsRetrain, match="raise its size"):
        _unlearn(digits_mlp, *digits_mlp.records(3), short)


def test_model_given_keeps_its_weights_when_nothing_is_healed(digits_mlp):
    before = copy.deepcopy(digits_mlp.model.state_dict())
    _unlearn(digits_mlp, *digits_mlp.records(5), digits_mlp.context.update_log)
    after = digits_mlp.model.state_dict()
    assert all(torch.equal(before[name], t) for name, t in after.items())
