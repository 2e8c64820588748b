from dataclasses import replace

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from unlearning import architectures
from unlearning.architectures import Transform
from unlearning.core import objective, task, training
from unlearning.core.examples import Examples
from unlearning.core.training import Recipe
from unlearning.core.update_log import UpdateLog, from_tensors
from unlearning.errors import WrongOptions

SMALL = {"channels": 1, "image_height": 8, "image_width": 8, "width": 3}


def _digits(n=300):
    digits = load_digits()
    x = torch.tensor(digits.images[:n], dtype=torch.float32)[:, None]
    return Examples(x, torch.tensor(digits.target[:n]))


def _model(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return architectures.classifier(
        "lenet5", SMALL, Transform(scale=1 / 16, mean=(0.3,), std=(0.4,)), generator=generator
    )


def _fit(recipe, *, model=None, seed=0, **more):
    digits = _digits()
    return training.fit(
        model or _model(),
        digits.subset(torch.arange(200)),
        digits.subset(torch.arange(200, 300)),
        recipe=recipe,
        generator=torch.Generator().manual_seed(seed),
        **more,
    )


RECIPE = Recipe(epochs=3, batch_size=32)


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_same_seed_gives_the_same_weights_bit_for_bit(optimiser):
    recipe = replace(RECIPE, optimiser=optimiser, learning_rate=0.01)
    torch.manual_seed(1)
    first = objective.flatten(_fit(recipe).model)
    torch.manual_seed(2)
    again, other = (objective.flatten(_fit(recipe, seed=seed).model) for seed in (0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_dropout_is_seeded_too_and_the_global_generator_given_back():
    def fit():
        torch.manual_seed(7)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.Dropout(0.5), nn.Linear(20, 10))
        expected = torch.get_rng_state()
        weights = objective.flatten(_fit(RECIPE, model=model).model)
        assert torch.equal(torch.get_rng_state(), expected)
        return weights

    assert torch.equal(fit(), fit())


def test_training_learns_and_keeps_the_best_epoch():
    fit = _fit(Recipe(epochs=12, batch_size=16, learning_rate=5e-3))
    accuracies = [epoch.validation_accuracy for epoch in fit.history]
    assert max(accuracies) > 0.7
    assert fit.best_epoch == accuracies.index(max(accuracies))
    validation = _digits().subset(torch.arange(200, 300))
    reached = float(objective.correct(fit.model, validation).double().mean())
    assert reached == max(accuracies)


def test_training_stops_when_validation_accuracy_no_longer_rises():
    # No learning rate to speak of: no epoch is better than the first.
    fit = _fit(Recipe(epochs=50, patience=2, learning_rate=1e-12))
    assert len(fit.history) == 3
    assert fit.best_epoch == 0


def _small_batch(dtype=torch.float64):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)
    return model, torch.randn(8, 6, dtype=dtype), torch.randint(3, (8,))


def _restricted_loss(model, x, y, recipe):
    loss = task.loss(model(x), y).mean()
    grads = torch.autograd.grad(loss, list(model.parameters()))
    if recipe.norm == "joint":
        norm = torch.cat([g.flatten() for g in grads]).norm()
    else:
        norm = sum(g.norm() for g in grads)
    return float((loss + recipe.alpha * norm).detach())


@pytest.mark.parametrize("norm", ["joint", "per_tensor"])
def test_restricted_gradient_is_the_slope_of_the_restricted_loss(norm):
    recipe = Recipe(alpha=0.3, restriction="double_backward", norm=norm)
    model, x, y = _small_batch()
    _, grads = training.restricted_gradients(model, x, y, recipe=recipe)
    flat, here = torch.cat([g.flatten() for g in grads]), objective.flatten(model)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        along = torch.randn(len(here), generator=generator, dtype=torch.float64)
        up, down = (
            _restricted_loss(objective.at(model, here + t * along), x, y, recipe)
            for t in (1e-5, -1e-5)
        )
        assert (up - down) / 2e-5 == pytest.approx(float(flat @ along), rel=1e-5)


@pytest.mark.parametrize("norm", ["joint", "per_tensor"])
def test_two_plain_passes_give_the_gradient_of_a_double_backward(norm):
    exact = Recipe(alpha=0.3, restriction="double_backward", norm=norm)
    model, x, y = _small_batch()
    before = objective.flatten(model)
    loss, wanted = training.restricted_gradients(model, x, y, recipe=exact)
    for radius, tolerance in ((1e-6, 1e-4), (1e-2, 0.05)):
        recipe = replace(exact, restriction="finite_difference", radius=radius)
        same_loss, grads = training.restricted_gradients(model, x, y, recipe=recipe)
        assert float(same_loss) == pytest.approx(float(loss))
        error = torch.cat([(a - b).flatten() for a, b in zip(grads, wanted, strict=True)]).norm()
        assert error < tolerance * torch.cat([b.flatten() for b in wanted]).norm()
    assert torch.equal(objective.flatten(model), before)


def test_alpha_zero_is_the_plain_gradient():
    model, x, y = _small_batch()
    _, grads = training.restricted_gradients(model, x, y, recipe=Recipe(alpha=0))
    loss = task.loss(model(x), y).mean()
    for grad, plain in zip(grads, torch.autograd.grad(loss, list(model.parameters())), strict=True):
        assert torch.equal(grad, plain)


def test_zero_gradient_has_no_restriction():
    model = nn.Linear(2, 2, bias=False)
    x, y = torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64)
    for restriction in ("finite_difference", "double_backward"):
        recipe = Recipe(alpha=0.1, restriction=restriction)
        _, grads = training.restricted_gradients(model, x, y, recipe=recipe)
        assert torch.equal(grads[0], torch.zeros(2, 2))


def test_second_pass_moves_no_batch_norm_statistics_and_drops_the_same_units():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))
    plain, x, y = objective.at(model, objective.flatten(model)), torch.randn(9, 4), torch.arange(9)
    # Tiny radius and huge α: had the passes dropped different units, their difference would be
    # of the gradient's own size divided by the radius.
    recipe = Recipe(alpha=1.0, radius=1e-2)
    _, restricted = training.restricted_gradients(model, x, y % 3, recipe=recipe)
    _, unrestricted = training.restricted_gradients(plain, x, y % 3, recipe=Recipe(alpha=0))
    for name, buffer in plain.named_buffers():
        assert torch.equal(buffer, dict(model.named_buffers())[name])
    assert model[1].momentum == 0.1
    assert max(float(g.abs().max()) for g in restricted) < 50
    assert len(restricted) == len(unrestricted)


def test_progress_rises_to_one():
    seen = []
    _fit(RECIPE, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_log_adds_up_to_the_change_of_the_weights_and_names_each_row_once_per_epoch():
    log = UpdateLog(max_bytes=10**8)
    start = objective.flatten(_model())
    fit = _fit(RECIPE, log=log)
    assert log.complete
    assert len(log) == (fit.best_epoch + 1) * 7
    torch.testing.assert_close(start + sum(log.deltas), objective.flatten(fit.model))
    assert torch.equal(torch.cat(log.rows[:7]).sort().values, torch.arange(200))


def test_log_names_rows_by_their_place_in_the_storage():
    digits, log = _digits(), UpdateLog(max_bytes=10**8)
    rows = torch.arange(100, 140)
    training.fit(
        _model(),
        digits.subset(rows),
        digits.subset(torch.arange(50)),
        recipe=Recipe(epochs=1, batch_size=16),
        generator=torch.Generator().manual_seed(0),
        log=log,
    )
    assert torch.equal(torch.cat(log.rows).sort().values, rows)


def test_full_log_says_that_it_is_not_complete_and_survives_storage():
    p = len(objective.flatten(_model()))
    log = UpdateLog(max_bytes=3 * (4 * p + 8 * 32))
    _fit(RECIPE, log=log)
    assert not log.complete
    assert len(log) == 3
    assert log.size_bytes <= log.max_bytes
    stored = from_tensors(log.to_tensors())
    assert not stored.complete
    assert all(torch.equal(a, b) for a, b in zip(stored.rows, log.rows, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(stored.deltas, log.deltas, strict=True))


def test_training_on_nothing_is_refused():
    digits = _digits()
    with pytest.raises(WrongOptions):
        training.fit(
            _model(),
            digits.subset(torch.arange(0)),
            digits,
            recipe=RECIPE,
            generator=torch.Generator(),
        )
