"""The learning rate of each update, against torch's own schedulers."""

import pytest
import torch
from torch.optim import lr_scheduler

from unlearning.core import schedules
from unlearning.core.recipe import Recipe

PER_EPOCH = 4


def _optimiser(rate):
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)


def _rates(scheduler, optimiser, count):
    found = []
    for _ in range(count):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return found


def _ours(recipe):
    count = recipe.epochs * PER_EPOCH
    return [schedules.rate(recipe, update, per_epoch=PER_EPOCH) for update in range(count)]


def test_constant_is_the_learning_rate_itself():
    recipe = Recipe(learning_rate=0.3, epochs=2)
    assert _ours(recipe) == [0.3] * 8


def test_cosine_is_that_of_torch():
    recipe = Recipe(learning_rate=0.3, epochs=5, schedule="cosine", final_share=0.1)
    optimiser = _optimiser(0.3)
    theirs = lr_scheduler.CosineAnnealingLR(optimiser, 20, eta_min=0.03)
    assert _ours(recipe) == pytest.approx(_rates(theirs, optimiser, 20), rel=1e-9)


def test_linear_is_that_of_torch():
    recipe = Recipe(learning_rate=0.3, epochs=5, schedule="linear", final_share=0.1)
    optimiser = _optimiser(0.3)
    theirs = lr_scheduler.LinearLR(optimiser, 1.0, 0.1, 20)
    assert _ours(recipe) == pytest.approx(_rates(theirs, optimiser, 20), rel=1e-9)


def test_step_is_that_of_torch():
    recipe = Recipe(
        learning_rate=0.3, epochs=6, schedule="step", step_epochs=(2, 5), step_factor=0.2
    )
    optimiser = _optimiser(0.3)
    theirs = lr_scheduler.MultiStepLR(optimiser, [2 * PER_EPOCH, 5 * PER_EPOCH], gamma=0.2)
    assert _ours(recipe) == pytest.approx(_rates(theirs, optimiser, 24), rel=1e-9)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_warm_up_comes_before_the_schedule_and_takes_of_its_epochs(schedule):
    warm = _ours(Recipe(learning_rate=0.3, epochs=5, schedule=schedule, warmup_epochs=2))
    rest = _ours(Recipe(learning_rate=0.3, epochs=3, schedule=schedule))
    assert warm[:8] == pytest.approx([0.3 * (k + 1) / 8 for k in range(8)])
    assert warm[8:] == pytest.approx(rest)


def test_steps_after_a_warm_up_are_counted_from_the_first_epoch():
    recipe = Recipe(learning_rate=0.1, epochs=4, schedule="step", step_epochs=(3,), warmup_epochs=1)
    assert _ours(recipe)[4:] == pytest.approx([0.1] * 8 + [0.01] * 4)
