"""A training that goes on from a kept state ends as one that was never interrupted."""

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from unlearning.core import training, training_state
from unlearning.core.examples import Examples
from unlearning.core.training import Recipe
from unlearning.core.update_log import UpdateLog
from unlearning.errors import WrongOptions


class Stopped(Exception):
    pass


def table(count, seed):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 3
    x = torch.randn(count, 6, generator=generator) + 1.5 * nn.functional.one_hot(y, 6)
    return Examples(x, y)


def fresh():
    """Dropout draws random numbers, batch normalisation has state of its own."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3)
    )


def fit(recipe, **more):
    return training.fit(
        fresh(),
        table(90, 1),
        table(60, 2),
        recipe=recipe,
        generator=torch.Generator().manual_seed(5),
        **more,
    )


def interrupted(recipe, after, *, log=None):
    """The state after that many epochs, as a safetensors file gives it back."""
    files = []

    def stop(state):
        if len(state.history) == after:
            named = {name: t.contiguous() for name, t in state.to_tensors().items()}
            files.append(save(named))
            raise Stopped

    with pytest.raises(Stopped):
        fit(recipe, kept=stop, log=log)
    return training_state.from_tensors(load(files[0]))


@pytest.mark.parametrize("after", [1, 4])
@pytest.mark.parametrize(
    "settings",
    [
        {"optimiser": "adam"},
        {"optimiser": "adam", "weight_decay": 0.01, "restriction": "double_backward"},
        {"optimiser": "sgd", "learning_rate": 0.05},
        {"optimiser": "sgd", "momentum": 0.0, "learning_rate": 0.05, "alpha": 0.0},
        {"optimiser": "sgd", "nesterov": True, "schedule": "cosine", "keep": "last"},
        {"optimiser": "adamw", "schedule": "linear", "warmup_epochs": 2, "clip_norm": 0.5},
        {"schedule": "step", "step_epochs": (2, 5), "accumulate": 2, "label_smoothing": 0.1},
        {"class_weights": "balanced", "keep": "last", "accumulate": 3},
    ],
)
def test_resumed_training_equals_an_uninterrupted_one_bit_for_bit(settings, after):
    recipe = Recipe(**{"epochs": 6, "batch_size": 16, "learning_rate": 0.01, **settings})
    whole, log = fit(recipe, log=UpdateLog(max_bytes=1 << 24)), UpdateLog(max_bytes=1 << 24)
    torch.manual_seed(99)  # the process that goes on is another one
    state = interrupted(recipe, after, log=UpdateLog(max_bytes=1 << 24))
    resumed = fit(recipe, resume=state, log=log)
    assert resumed.history == whole.history
    assert resumed.best_epoch == whole.best_epoch
    expected = whole.model.state_dict()
    assert all(torch.equal(t, expected[n]) for n, t in resumed.model.state_dict().items())
    complete = UpdateLog(max_bytes=1 << 24)
    fit(recipe, log=complete)
    assert len(log) == len(complete)
    assert all(map(torch.equal, log.deltas, complete.deltas))


def test_log_that_was_asked_for_after_the_beginning_is_not_complete():
    recipe, log = Recipe(epochs=4, batch_size=16), UpdateLog(max_bytes=1 << 24)
    fit(recipe, resume=interrupted(recipe, 2), log=log)
    assert not log.complete
    assert not len(log)


@pytest.mark.parametrize("after", [1, 2, 3])
def test_resumed_training_changes_images_as_an_uninterrupted_one(after):
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(40) % 3
    images = Examples(torch.randn(40, 1, 6, 6, generator=generator) + y[:, None, None, None], y)
    recipe = Recipe(epochs=4, batch_size=16, flip=True, crop_padding=2, keep="last")
    states = {}

    def train(**more):
        torch.manual_seed(0)
        return training.fit(
            nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 3)),
            images,
            images,
            recipe=recipe,
            generator=torch.Generator().manual_seed(5),
            **more,
        )

    def keep(state):
        named = {name: t.contiguous() for name, t in state.to_tensors().items()}
        states[len(state.history)] = save(named)

    whole = train(kept=keep)
    resumed = train(resume=training_state.from_tensors(load(states[after])))
    assert resumed.history == whole.history
    expected = whole.model.state_dict()
    assert all(torch.equal(t, expected[n]) for n, t in resumed.model.state_dict().items())


def test_patience_is_counted_over_the_interruption():
    # No learning rate to speak of: no epoch is better than the first.
    recipe = Recipe(epochs=9, batch_size=16, learning_rate=1e-12, patience=3)
    whole = fit(recipe)
    resumed = fit(recipe, resume=interrupted(recipe, 2))
    assert len(resumed.history) == len(whole.history) < 9
    assert (resumed.best_epoch, resumed.history) == (whole.best_epoch, whole.history)


def test_state_is_told_after_every_epoch_that_another_one_follows():
    told = []
    fit(Recipe(epochs=4, batch_size=16), kept=lambda state: told.append(len(state.history)))
    assert told == [1, 2, 3]


def test_what_is_no_state_is_refused():
    with pytest.raises(WrongOptions, match="not the state of a training"):
        training_state.from_tensors({"history": torch.zeros(0, 3)})


def test_state_of_another_network_is_refused():
    state = interrupted(Recipe(epochs=3, batch_size=16), 1)
    with pytest.raises(WrongOptions, match="another network's"):
        training.fit(
            nn.Linear(6, 3),
            table(30, 1),
            table(30, 2),
            recipe=Recipe(epochs=3),
            generator=torch.Generator().manual_seed(5),
            resume=state,
        )
