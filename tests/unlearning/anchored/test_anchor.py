import copy
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import nn

from tests.unlearning.anchored.by_hand import hand_forgotten, hand_made
from tests.unlearning.anchored.small import generator
from unlearning import architectures
from unlearning.anchored import anchor as anchors
from unlearning.anchored import preparation
from unlearning.anchored.preparation import Preparation
from unlearning.architectures import Transform
from unlearning.core import objective, task, training
from unlearning.core.examples import Examples, concatenate
from unlearning.curvature import kfac
from unlearning.errors import WrongOptions
from unlearning.methods import Context, fine_tune, random_labels


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    examples = Examples(torch.tensor(data.images, dtype=torch.float32), torch.tensor(data.target))
    return examples.subset(torch.randperm(len(examples), generator=generator()))


@pytest.fixture(scope="module")
def train(digits):
    return digits.subset(torch.arange(500))


@pytest.fixture(scope="module")
def validation(digits):
    return digits.subset(torch.arange(500, 900))


@pytest.fixture(scope="module")
def model(train, validation):
    """A network that knows its 500 digits better than others."""
    model = architectures.classifier(
        "mlp", {"inputs": 64, "hidden": [40]}, Transform(scale=1 / 16), generator=generator()
    )
    recipe = training.Recipe(epochs=40, patience=40, learning_rate=3e-3)
    return training.fit(model, train, validation, recipe=recipe, generator=generator()).model


@pytest.fixture(scope="module")
def anchor(model, train, validation):
    return preparation.prepare(
        model, train, validation, options=Preparation(law_repeats=2), generator=generator()
    )


def test_anchor_holds_sums_and_means_over_the_training_rows(anchor, model, train, validation):
    assert torch.equal(anchor.theta, objective.flatten(model))
    torch.testing.assert_close(anchor.gradient_sum, objective.summed_gradient(model, train))
    assert anchor.count == 500
    assert torch.equal(anchor.class_counts, torch.bincount(train.labels, minlength=10))
    gap = objective.losses(model, validation).mean() - objective.losses(model, train).mean()
    assert anchor.gap == pytest.approx(float(gap), rel=1e-5)
    solved = anchor.curvature.solve(anchor.gradient_sum)
    torch.testing.assert_close(anchor.preconditioned_sum, solved)


def test_gradients_are_of_what_the_training_minimised_and_losses_are_not(digits):
    """With smoothed labels and weights the loss's own gradient is far from zero at the optimum."""
    train, validation = digits.subset(torch.arange(60)), digits.subset(torch.arange(60, 120))
    weights = tuple(float(1 + c) for c in range(10))
    recipe = training.Recipe(
        epochs=300, keep="last", learning_rate=0.02, label_smoothing=0.2, class_weights=weights
    )
    start = architectures.classifier(
        "mlp", {"inputs": 64, "hidden": []}, Transform(scale=1 / 16), generator=generator()
    )
    found = training.fit(start, train, validation, recipe=recipe, generator=generator()).model
    loss = training.loss_of(recipe, found, train)
    options = Preparation(law_repeats=0)
    ours, plain = (
        preparation.prepare(
            found, train, validation, loss=one, options=options, generator=generator()
        )
        for one in (loss, task.PLAIN)
    )
    assert float(ours.gradient_sum.norm()) < 0.1 * float(plain.gradient_sum.norm())
    assert (ours.training_loss, ours.validation_loss) == (
        plain.training_loss,
        plain.validation_loss,
    )
    rows = train.subset(torch.arange(5))
    stored = anchors.from_tensors(ours.to_tensors())
    forgotten = anchors.forget(stored, None, found, rows)
    expected = objective.summed_gradient(found, rows, loss=loss)
    torch.testing.assert_close(forgotten.gradient_sum, expected)
    torch.testing.assert_close(
        forgotten.loss_sum, float(objective.losses(found, rows).double().sum())
    )
    left = objective.summed_gradient(found, train.subset(torch.arange(5, 60)), loss=loss) / 55
    torch.testing.assert_close(
        anchors.retain_gradient(stored, forgotten), left, rtol=1e-4, atol=1e-6
    )


def test_retain_gradient_needs_no_retained_row(anchor, model, train):
    forgotten = anchors.forget(anchor, None, model, train.subset(torch.arange(30)))
    cached = anchors.retain_gradient(anchor, forgotten)
    direct = objective.summed_gradient(model, train.subset(torch.arange(30, 500))) / 470
    assert float((cached - direct).norm() / direct.norm()) < 1e-5
    torch.testing.assert_close(
        anchors.retain_gradient(anchor, None), anchor.gradient_sum / anchor.count
    )


def test_running_sums_do_not_depend_on_order_grouping_or_present_weights(anchor, model, train):
    rows = torch.arange(40, 52)
    at_once = anchors.forget(anchor, None, model, train.subset(rows))
    elsewhere = objective.at(model, anchor.theta * 0.5)
    in_turn = None
    for part in rows.flip(0).split([1, 4, 7]):
        in_turn = anchors.forget(anchor, in_turn, elsewhere, train.subset(part))
    assert in_turn.count == at_once.count == 12
    assert torch.equal(in_turn.class_counts, at_once.class_counts)
    assert in_turn.loss_sum == pytest.approx(at_once.loss_sum, rel=1e-5)
    torch.testing.assert_close(in_turn.gradient_sum, at_once.gradient_sum, rtol=1e-4, atol=1e-6)
    one, other = (anchors.direction(anchor, f).delta for f in (at_once, in_turn))
    assert float((one - other).norm()) < 1e-4


@pytest.mark.parametrize("preconditioned", [True, False])
@pytest.mark.parametrize("evenness", [0.0, 0.5])
def test_direction_is_the_formula(anchor, model, train, preconditioned, evenness):
    anchor = replace(anchor, evenness=evenness)
    rows = train.subset(torch.arange(60, 85))
    forgotten = anchors.forget(anchor, None, model, rows)
    found = anchors.direction(anchor, forgotten, preconditioned=preconditioned)
    rest = concatenate(train.subset(torch.arange(60)), train.subset(torch.arange(85, 500)))
    g_r = objective.summed_gradient(model, rest) / 475
    solve = anchor.curvature.solve if preconditioned else torch.clone

    def weighted(weights):
        """Σ w·∇ℓ / Σ w, one row at a time."""
        gradients = [
            objective.summed_gradient(model, rows.subset(torch.tensor([i]))) for i in range(25)
        ]
        return sum(w * g for w, g in zip(weights, gradients, strict=True)) / sum(weights)

    def formula(g):
        c = max(0.0, float(g @ g_r / (g_r @ g_r)))
        step = solve(g - c * g_r)
        return (c, step) if float(step @ g_f) > 0 else (0.0, solve(g))

    g_f = weighted([1.0] * 25)
    doubts = 1 - torch.exp(-objective.losses(model, rows).double())
    c, step = formula(weighted((doubts**-evenness).tolist()))
    assert found.retain_weight == pytest.approx(c, rel=1e-3, abs=1e-6)
    assert float((found.delta - step / step.norm()).norm()) < 1e-3
    assert found.slope == pytest.approx(float(g_f @ step / step.norm()), rel=1e-3)
    assert found.length == pytest.approx(float(step.norm()), rel=1e-3)
    assert found.natural == pytest.approx(float(step.norm()) * 25 / 475, rel=1e-3)
    as_they_are = anchors.direction(anchor, forgotten, preconditioned=preconditioned, evenly=False)
    _, step = formula(g_f)
    assert float((as_they_are.delta - step / step.norm()).norm()) < 1e-3


def test_forgetting_every_row_or_rows_of_another_anchor_is_refused(anchor):
    with pytest.raises(WrongOptions, match="nothing is left"):
        anchors.direction(hand_made([1.0, 1.0], 3), hand_forgotten([1.0, 0.0], 3))
    with pytest.raises(WrongOptions, match="another anchor"):
        anchors.retain_gradient(anchor, hand_forgotten([1.0, 0.0], 1))


@pytest.mark.parametrize("evenness", [0.0, 0.5])
def test_anchor_and_running_sums_survive_a_safetensors_file(
    anchor, model, train, tmp_path, evenness
):
    anchor = replace(anchor, evenness=evenness)
    rows = train.subset(torch.arange(9))
    forgotten = anchors.forget(anchor, None, model, rows)
    save_file(anchor.to_tensors(), tmp_path / "anchor")
    save_file(forgotten.to_tensors(), tmp_path / "forgotten")
    stored = anchors.from_tensors(load_file(tmp_path / "anchor"))
    sums = anchors.forgotten_from_tensors(load_file(tmp_path / "forgotten"))
    assert stored.law == anchor.law
    assert (stored.count, stored.gap) == (anchor.count, anchor.gap)
    assert (sums.count, sums.loss_sum) == (forgotten.count, forgotten.loss_sum)
    assert sums.weight_sum == forgotten.weight_sum
    again = anchors.direction(stored, anchors.forget(stored, sums, model, rows))
    expected = anchors.direction(anchor, anchors.forget(anchor, forgotten, model, rows))
    torch.testing.assert_close(again.delta, expected.delta)


@pytest.fixture(scope="module")
def normed(train, validation):
    """A network with batch normalisation, and its anchor."""
    model = architectures.classifier(
        "all_cnn", {"channels": 1, "width": 4}, Transform(scale=1 / 16), generator=generator()
    )
    images = [Examples(e.x[:, None], e.y, e.rows) for e in (train, validation)]
    recipe = training.Recipe(epochs=3, patience=3, learning_rate=1e-2, batch_size=32, alpha=0)
    model = training.fit(model, *images, recipe=recipe, generator=generator()).model
    options = Preparation(law_repeats=0)
    anchor = preparation.prepare(model, *images, options=options, generator=generator())
    return model, anchor, images[0]


@pytest.mark.parametrize("method", [fine_tune, random_labels])
def test_anchor_is_the_same_model_whatever_moved_the_present_one(normed, method):
    model, anchor, train = normed
    rows = torch.arange(len(train))
    forget, retain = train.subset(rows[:20]), train.subset(rows[20:])
    moved = method.unlearn(
        model,
        forget,
        retain,
        options=method.Options(epochs=1),
        context=Context(),
        generator=generator(),
    ).model
    expected = objective.logits(model, train)
    assert not torch.equal(objective.logits(objective.at(moved, anchor.theta), train), expected)
    assert torch.equal(objective.logits(anchors.at(anchor, moved), train), expected)
    sums = [anchors.forget(anchor, None, m, forget) for m in (model, moved)]
    assert torch.equal(sums[0].gradient_sum, sums[1].gradient_sum)
    step = anchors.direction(anchor, sums[0])
    ends = [anchors.along(anchor, step, copy.deepcopy(m))(0.1) for m in (model, moved)]
    assert torch.equal(*(objective.logits(end, train) for end in ends))


def test_state_beside_the_step_survives_a_file_and_may_be_missing(normed, tmp_path):
    model, anchor, train = normed
    assert {"running_mean", "running_var", "weight", "bias"} <= {
        name.rpartition(".")[2] for name in anchor.unstepped
    }
    save_file(anchor.to_tensors(), tmp_path / "anchor")
    tensors = load_file(tmp_path / "anchor")
    moved = copy.deepcopy(model)
    objective.recalibrate_batch_norm(moved, train.subset(torch.arange(9)))
    logits = [
        objective.logits(anchors.at(anchors.from_tensors(kept), moved), train)
        for kept in (tensors, {n: t for n, t in tensors.items() if "unstepped" not in n})
    ]
    assert torch.equal(logits[0], objective.logits(model, train))
    assert torch.equal(logits[1], objective.logits(moved, train))


def test_state_of_another_architecture_is_refused(normed, model):
    _, anchor, _ = normed
    with pytest.raises(WrongOptions, match="the model has no"):
        objective.restore(model, anchor.unstepped)


def test_files_of_something_else_are_refused():
    with pytest.raises(WrongOptions, match="not an anchor"):
        anchors.from_tensors({"theta": torch.zeros(2)})
    with pytest.raises(WrongOptions, match="not a forgotten set"):
        anchors.forgotten_from_tensors({"count": torch.tensor(2)})


def test_law_foretells_the_searched_strength_of_sets_it_was_not_fitted_on(anchor, model, train):
    errors = []
    for seed in range(12):
        rows = train.sample(5 + seed, generator=generator(100 + seed))
        step = anchors.direction(anchor, anchors.forget(anchor, None, model, rows))
        apply = anchors.along(anchor, step, objective.at(model, anchor.theta))
        strength = anchor.law.strength(len(rows), step.slope)
        risen = (
            objective.losses(apply(strength), rows).mean()
            - objective.losses(anchors.at(anchor, model), rows).mean()
        )
        errors.append(float(risen) / anchor.gap)
    middle = sorted(errors)[6]
    assert 0.6 < middle < 1.6


def test_preparing_reports_progress_and_leaves_the_model_as_it_was(model, train, validation):
    before, seen = objective.flatten(model), []
    prepared = preparation.prepare(
        model,
        train,
        validation,
        options=Preparation(preconditioner="none", law_repeats=1),
        generator=generator(),
        progress=seen.append,
    )
    assert prepared.curvature is None
    assert torch.equal(prepared.preconditioned_sum, prepared.gradient_sum)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert torch.equal(objective.flatten(model), before)


def test_same_seed_prepares_the_same_anchor(anchor, model, train, validation):
    again = preparation.prepare(
        model, train, validation, options=Preparation(law_repeats=2), generator=generator()
    )
    for name, tensor in anchor.to_tensors().items():
        assert torch.equal(tensor, again.to_tensors()[name])


def test_a_model_without_a_gap_has_no_law(digits):
    untrained = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    prepared = preparation.prepare(
        untrained,
        digits.subset(torch.arange(400)),
        digits.subset(torch.arange(400)),
        generator=generator(),
    )
    assert not anchors.has_gap(prepared)
    assert prepared.law is None
    assert isinstance(prepared.curvature, kfac.Kfac)


def test_rows_are_weighed_alike_where_the_plain_step_leaves_nothing_to_tell(anchor):
    assert anchor.evenness == 0


def test_sums_and_anchors_of_before_rows_were_weighted_weigh_them_alike(anchor, model, train):
    rows = train.subset(torch.arange(9))
    numbers = anchor.to_tensors()["numbers"][:3]
    older = anchors.from_tensors(anchor.to_tensors() | {"numbers": numbers})
    assert older.evenness == 0
    forgotten = anchors.forget(older, None, model, rows)
    tensors = forgotten.to_tensors()
    assert set(tensors) == {
        "gradient_sum",
        "preconditioned_sum",
        "class_counts",
        "count",
        "loss_sum",
    }
    read = anchors.forgotten_from_tensors(tensors)
    assert read.weight_sum == 9
    expected = anchors.direction(older, forgotten).delta
    torch.testing.assert_close(anchors.direction(older, read).delta, expected)
