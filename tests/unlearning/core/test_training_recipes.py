"""Trainings by every option of a recipe, against loops written out with torch's own parts."""

import copy

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torch.nn import functional

from unlearning.core import objective, schedules, task, training
from unlearning.core.examples import Examples, pieces
from unlearning.core.recipe import Recipe
from unlearning.core.update_log import UpdateLog
from unlearning.errors import WrongOptions

PLAIN = {"alpha": 0, "batch_size": 32, "epochs": 4, "keep": "last"}


def _digits(begin, end):
    digits = load_digits()
    x = torch.tensor(digits.data[begin:end] / 16)
    return Examples(x, torch.tensor(digits.target[begin:end]))


TRAIN, VALIDATION = _digits(0, 200), _digits(200, 300)


def _model(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 20), nn.Tanh(), nn.Linear(20, 10)).to(dtype)


def _fit(recipe, **more):
    return training.fit(_model(), TRAIN, VALIDATION, recipe=recipe, generator=_generator(), **more)


def _generator():
    generator = torch.Generator().manual_seed(1)
    torch.randint(2**62, (), generator=generator)  # which fit draws for dropout
    return torch.Generator().manual_seed(1)


def _by_hand(recipe, optimiser_of, *, weights=None, update_rows=None):
    """The same training written out: batches in the order drawn, one update for each."""
    model, generator = _model(), torch.Generator().manual_seed(1)
    torch.randint(2**62, (), generator=generator)  # the seed of dropout
    optimiser = optimiser_of(model.parameters())
    size = update_rows or recipe.batch_size
    batches = pieces(len(TRAIN), size)
    for epoch in range(recipe.epochs):
        order = torch.randperm(len(TRAIN), generator=generator)
        for step, here in enumerate(batches):
            rate = schedules.rate(recipe, epoch * len(batches) + step, per_epoch=len(batches))
            for group in optimiser.param_groups:
                group["lr"] = rate
            x, y = TRAIN.x[order[here]], TRAIN.y[order[here]]
            losses = functional.cross_entropy(
                model(x),
                y,
                weight=weights,
                label_smoothing=recipe.label_smoothing,
                reduction="none",
            )
            optimiser.zero_grad()
            losses.mean().backward()
            if recipe.clip_norm is not None:
                flat = torch.cat([p.grad.flatten() for p in model.parameters()])
                if flat.norm() > recipe.clip_norm:
                    for p in model.parameters():
                        p.grad *= recipe.clip_norm / flat.norm()
            optimiser.step()
    return objective.flatten(model)


OPTIMISERS = [
    ({"optimiser": "adam", "weight_decay": 0.01}, torch.optim.Adam, {"weight_decay": 0.01}),
    ({"optimiser": "adamw", "weight_decay": 0.1}, torch.optim.AdamW, {"weight_decay": 0.1}),
    ({"optimiser": "sgd", "momentum": 0.0}, torch.optim.SGD, {}),
    (
        {"optimiser": "sgd", "weight_decay": 0.01},
        torch.optim.SGD,
        {"momentum": 0.9, "weight_decay": 0.01},
    ),
    (
        {"optimiser": "sgd", "nesterov": True},
        torch.optim.SGD,
        {"momentum": 0.9, "nesterov": True},
    ),
]
SCHEDULES = [
    {},
    {"schedule": "cosine", "warmup_epochs": 1},
    {"schedule": "linear", "final_share": 0.2},
    {"schedule": "step", "step_epochs": (1, 3)},
]


@pytest.mark.parametrize(("settings", "kind", "options"), OPTIMISERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_training_is_that_of_torchs_optimiser_at_the_schedules_rates(
    settings, kind, options, schedule
):
    recipe = Recipe(**PLAIN, learning_rate=0.05, **settings, **schedule)
    found = _fit(recipe)
    expected = _by_hand(recipe, lambda parameters: kind(parameters, lr=1.0, **options))
    assert torch.equal(objective.flatten(found.model), expected)
    updates = len(pieces(len(TRAIN), recipe.batch_size))
    assert [epoch.learning_rate for epoch in found.history] == [
        schedules.rate(recipe, (epoch + 1) * updates - 1, per_epoch=updates) for epoch in range(4)
    ]


def test_recipe_that_names_nothing_new_is_the_former_training_bit_for_bit():
    """The loop before there were schedules, with the default restriction and early stopping."""
    recipe = Recipe(epochs=8, patience=2, batch_size=16, learning_rate=0.02)
    model, generator = _model(torch.float32), torch.Generator().manual_seed(1)
    train, validation = (Examples(e.x.float(), e.y) for e in (TRAIN, VALIDATION))
    torch.randint(2**62, (), generator=generator)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02, weight_decay=0.0)
    best, accuracies, losses = None, [], []
    for _ in range(8):
        total = torch.zeros((), dtype=torch.float64)
        order = torch.randperm(len(train), generator=generator)
        for here in pieces(len(train), 16):
            x, y = train.x[order[here]], train.y[order[here]]
            loss, grads = training.restricted_gradients(model, x, y, recipe=recipe)
            for p, grad in zip(model.parameters(), grads, strict=True):
                p.grad = grad
            optimiser.step()
            total += float(loss) * len(y)
        losses.append(float(total) / len(train))
        right = float(objective.correct(model, validation).double().mean())
        if not accuracies or right > max(accuracies):
            best = copy.deepcopy(model.state_dict())
        accuracies.append(right)
        if len(accuracies) - 1 - accuracies.index(max(accuracies)) >= 2:
            break
    found = training.fit(
        _model(torch.float32),
        train,
        validation,
        recipe=recipe,
        generator=torch.Generator().manual_seed(1),
    )
    assert [epoch.validation_accuracy for epoch in found.history] == accuracies
    assert [epoch.training_loss for epoch in found.history] == losses
    assert found.best_epoch == accuracies.index(max(accuracies))
    assert all(torch.equal(t, best[name]) for name, t in found.model.state_dict().items())


@pytest.mark.parametrize("clip", [1e-3, 0.3, 100.0])
def test_long_gradients_are_shortened_to_the_norm(clip):
    recipe = Recipe(**PLAIN, optimiser="sgd", learning_rate=0.1, clip_norm=clip)
    expected = _by_hand(recipe, lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9))
    # torch adds 1e-6 to the norm that it divides by.
    torch.testing.assert_close(
        objective.flatten(_fit(recipe).model), expected, rtol=1e-3, atol=1e-6
    )


@pytest.mark.parametrize(("size", "accumulate"), [(8, 4), (16, 2), (5, 7)])
def test_accumulated_mini_batches_are_one_update_of_all_their_rows(size, accumulate):
    recipe = Recipe(
        **{**PLAIN, "batch_size": size},
        accumulate=accumulate,
        optimiser="sgd",
        learning_rate=0.1,
        schedule="cosine",
    )
    log = UpdateLog(max_bytes=1 << 24)
    found = _fit(recipe, log=log)
    expected = _by_hand(
        recipe,
        lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9),
        update_rows=size * accumulate,
    )
    torch.testing.assert_close(objective.flatten(found.model), expected, rtol=1e-9, atol=1e-12)
    per_epoch = -(-200 // (size * accumulate))
    assert len(log) == 4 * per_epoch
    assert torch.equal(torch.cat(log.rows[:per_epoch]).sort().values, torch.arange(200))
    torch.testing.assert_close(
        objective.flatten(_model()) + sum(log.deltas).double(), expected, rtol=1e-4, atol=1e-5
    )


def test_labels_are_smoothed():
    recipe = Recipe(**PLAIN, optimiser="sgd", learning_rate=0.1, label_smoothing=0.2)
    expected = _by_hand(recipe, lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9))
    assert torch.equal(objective.flatten(_fit(recipe).model), expected)


def test_classes_are_weighted():
    given = tuple(float(c + 1) for c in range(10))
    labels = TRAIN.labels.numpy()
    balanced = compute_class_weight("balanced", classes=np.arange(10), y=labels)
    for weights, wanted in ((given, given), ("balanced", balanced)):
        recipe = Recipe(**PLAIN, optimiser="sgd", learning_rate=0.1, class_weights=weights)
        expected = _by_hand(
            recipe,
            lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9),
            weights=torch.tensor(wanted, dtype=torch.float32).double(),
        )
        assert torch.equal(objective.flatten(_fit(recipe).model), expected)


def test_class_without_rows_has_no_weight_and_the_others_balance():
    labels = torch.tensor([0, 0, 0, 2, 2, 2, 2, 2, 2])
    weights = task.balanced_weights(labels, 4)
    assert weights.tolist() == [1.5, 0.0, 0.75, 0.0]
    assert float(weights[labels].mean()) == 1.0


def test_weights_for_other_classes_are_refused():
    with pytest.raises(WrongOptions, match="gives 3 weights and the network has 10 classes"):
        _fit(Recipe(**PLAIN, class_weights=(1.0, 1.0, 2.0)))


def test_last_epoch_is_kept_although_an_earlier_one_was_better():
    settings = {"alpha": 0, "optimiser": "sgd", "learning_rate": 2.0, "epochs": 6, "batch_size": 16}
    found = _fit(Recipe(**settings, keep="last", patience=1))
    accuracies = [epoch.validation_accuracy for epoch in found.history]
    assert len(found.history) == 6
    assert found.best_epoch == 5
    assert max(accuracies) > accuracies[-1]
    reached = float(objective.correct(found.model, VALIDATION).double().mean())
    assert reached == accuracies[-1]


def test_mixed_precision_is_full_precision_on_a_processor():
    both = [
        objective.flatten(_fit(Recipe(**PLAIN, precision=precision)).model)
        for precision in ("full", "bfloat16")
    ]
    assert torch.equal(*both)
