"""The methods that go on training: their losses, their modes, and what they reach on digits."""

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional

from unlearning import methods
from unlearning.core import objective
from unlearning.core.examples import Examples
from unlearning.errors import NeedsRetrain, WrongOptions
from unlearning.methods import _fine_tuning, _strength, negative_gradient, scrub


def _unlearn(task, name, kind, **options):
    method = methods.get(name)
    forget, retain, context = task.given(kind)
    return method.unlearn(
        task.model,
        forget,
        retain,
        options=method.options(**options),
        context=context,
        generator=torch.Generator().manual_seed(0),
    )


def _accuracy(model, examples):
    return float(objective.correct(model, examples).double().mean())


def _others(task):
    labels = task.test.labels
    return task.test.subset((labels != 3).nonzero()[:, 0])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("boundary_shrink", {"learning_rate": 1e-3}),
        ("boundary_shrink", {"learning_rate": 1e-3, "search": "pgd"}),
        ("boundary_expanding", {"learning_rate": 1e-2}),
        ("random_labels", {}),
        ("negative_gradient", {"retain_term": True}),
        ("salun", {}),
        ("boundary_shrink", {"strength": "calibrated"}),
        ("boundary_expanding", {"strength": "calibrated"}),
        ("random_labels", {"strength": "calibrated"}),
        ("salun", {"strength": "calibrated"}),
        (
            "scrub",
            {"strength": "calibrated", "forget_batch_size": 16, "epochs": 6, "max_epochs": 5},
        ),
    ],
    ids=str,
)
def test_class_of_digits_is_forgotten_and_the_others_are_kept(digits_mlp, name, options):
    forget, _ = digits_mlp.of_class()
    assert _accuracy(digits_mlp.model, forget) > 0.98
    update = _unlearn(digits_mlp, name, "class", **options)
    assert _accuracy(update.model, forget) < 0.2
    assert (
        _accuracy(update.model, _others(digits_mlp))
        > _accuracy(digits_mlp.model, _others(digits_mlp)) - 0.04
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("negative_gradient", {"learning_rate": 0.05}),
        ("negative_gradient", {"learning_rate": 0.05, "retain_term": True}),
        ("random_labels", {}),
        ("salun", {}),
        ("boundary_shrink", {"learning_rate": 0.01}),
    ],
    ids=str,
)
def test_records_lose_more_than_other_training_rows(digits_mlp, name, options):
    forget, retain = digits_mlp.records(30)
    update = _unlearn(digits_mlp, name, "records", **options)

    def rise(examples):
        rises = objective.losses(update.model, examples) - objective.losses(
            digits_mlp.model, examples
        )
        return float(rises.mean())

    assert rise(forget) > 0
    assert rise(forget) > 1.4 * rise(retain)


def test_plain_negative_gradient_is_an_explicit_ascent(digits_mlp):
    forget, _ = digits_mlp.records(30)
    options = {"batch_size": 30, "epochs": 3, "learning_rate": 1e-3, "momentum": 0.0}
    update = _unlearn(digits_mlp, "negative_gradient", "records", **options)
    by_hand = copy.deepcopy(digits_mlp.model)
    for _ in range(3):
        loss = functional.cross_entropy(by_hand(forget.x[:30]), forget.y[:30])
        grads = torch.autograd.grad(loss, list(by_hand.parameters()))
        with torch.no_grad():
            for p, g in zip(by_hand.parameters(), grads, strict=True):
                p += 1e-3 * g
    assert torch.allclose(
        objective.flatten(update.model), objective.flatten(by_hand), rtol=1e-4, atol=1e-6
    )


def test_negative_gradient_takes_the_authors_settings_of_the_form_that_is_chosen(digits_mlp):
    plain = _unlearn(digits_mlp, "negative_gradient", "records").notes
    both = _unlearn(digits_mlp, "negative_gradient", "records", retain_term=True).notes
    assert (plain["learning_rate"], plain["epochs"]) == (1e-4, 5)
    assert (both["learning_rate"], both["epochs"]) == (0.01, 10)


def test_every_retained_batch_is_paired_with_rows_to_forget():
    forget = Examples(torch.arange(6.0)[:, None], torch.zeros(6, dtype=torch.int64))
    retain = Examples(torch.arange(100.0, 120.0)[:, None], torch.ones(20, dtype=torch.int64))
    network = nn.Linear(1, 2)
    generator = torch.Generator().manual_seed(0)
    pairs = list(negative_gradient._pairs(network, forget, retain, 4, generator))
    assert sorted(float(v) for _, (x, _) in pairs for v in x) == list(range(100, 120))
    assert [len(x) for (x, _), _ in pairs] == [4, 2, 4, 2, 4]


def test_wrong_labels_are_uniform_over_the_wrong_classes():
    labels = torch.full((9000,), 4)
    wrong = _fine_tuning.wrong_labels(
        labels, classes=torch.arange(10), generator=torch.Generator().manual_seed(0)
    )
    counts = wrong.bincount(minlength=10)
    assert counts[4] == 0
    assert ((counts[torch.arange(10) != 4] - 1000).abs() < 5 * 1000**0.5).all()


def test_wrong_labels_come_from_the_given_classes_alone():
    labels = torch.arange(10).repeat(600)
    classes = torch.tensor([1, 4, 8])
    wrong = _fine_tuning.wrong_labels(
        labels, classes=classes, generator=torch.Generator().manual_seed(0)
    )
    for own in range(10):
        counts = wrong[labels == own].bincount(minlength=10)
        allowed = classes[classes != own]
        assert set(counts.nonzero()[:, 0].tolist()) == set(allowed.tolist())
        assert ((counts[allowed] - 600 / len(allowed)).abs() < 5 * 300**0.5).all()


@pytest.mark.parametrize("name", ["random_labels", "salun", "boundary_shrink"])
def test_rows_of_the_only_class_left_cannot_be_relabelled(digits_mlp, name):
    only = digits_mlp.of_class()[0]
    forget, retain = only.subset(torch.arange(9)), only.subset(torch.arange(9, 40))
    method = methods.get(name)
    with pytest.raises(WrongOptions, match="all of one class"):
        method.unlearn(
            digits_mlp.model,
            forget,
            retain,
            options=method.options(),
            context=digits_mlp.context,
            generator=torch.Generator().manual_seed(0),
        )


@pytest.mark.parametrize("name", ["random_labels", "salun", "boundary_shrink"])
def test_class_forgotten_earlier_stays_forgotten_when_another_one_goes(digits_mlp, name):
    method, model, gone = methods.get(name), digits_mlp.model, torch.zeros(1000, dtype=torch.bool)
    for label in (0, 8):
        forget = digits_mlp.train.subset((digits_mlp.train.labels == label).nonzero()[:, 0])
        gone |= digits_mlp.train.labels == label
        model = method.unlearn(
            model,
            forget,
            digits_mlp.train.subset((~gone).nonzero()[:, 0]),
            options=method.options(strength="calibrated"),
            context=dataclasses.replace(digits_mlp.context, kind="class", update_log=None),
            generator=torch.Generator().manual_seed(0),
        ).model
    first = digits_mlp.train.subset((digits_mlp.train.labels == 0).nonzero()[:, 0])
    assert _accuracy(model, first) < 0.02


def test_divergence_is_the_textbook_one_and_zero_for_equals():
    teacher, student = torch.randn(6, 4), torch.randn(6, 4)
    p, q = (logits.div(4.0).softmax(1) for logits in (teacher, student))
    expected = 16 * (p * (p / q).log()).sum(1).mean()
    found = scrub.divergence(teacher, student, temperature=4.0)
    assert torch.allclose(found, expected, atol=1e-5)
    assert float(scrub.divergence(teacher, teacher, temperature=4.0)) == pytest.approx(0, abs=1e-6)


def test_scrub_is_an_explicit_max_step_and_min_step(digits_mlp):
    forget, retain = digits_mlp.records(30)
    rate, teacher = 0.05, digits_mlp.model
    options = {"learning_rate": rate, "momentum": 0.0, "weight_decay": 0.0, "batch_size": 970}
    options |= {"epochs": 2, "max_epochs": 2, "alpha": 0.5, "gamma": 0.8, "temperature": 2.0}
    update = _unlearn(digits_mlp, "scrub", "records", **options)

    by_hand = copy.deepcopy(teacher)

    def divergence(rows):
        p, q = (model(rows.x[rows.rows]).div(2.0).softmax(1) for model in (teacher, by_hand))
        return 4 * (p.detach() * (p.detach() / q).log()).sum(1).mean()

    def descend(loss):
        grads = torch.autograd.grad(loss, list(by_hand.parameters()))
        with torch.no_grad():
            for p, g in zip(by_hand.parameters(), grads, strict=True):
                p -= rate * g

    for _ in range(2):
        descend(-divergence(forget))
        fit = functional.cross_entropy(by_hand(retain.x[retain.rows]), retain.labels)
        descend(0.5 * divergence(retain) + 0.8 * fit)
    moved = objective.flatten(by_hand) - objective.flatten(teacher)
    found = objective.flatten(update.model) - objective.flatten(teacher)
    assert moved.norm() > 1e-3
    assert torch.allclose(found, moved, rtol=1e-2, atol=1e-6)


def test_rows_to_forget_pass_in_evaluation_mode_and_retained_rows_in_train_mode(task):
    forget, retain = task.records(30)
    network = copy.deepcopy(task.model)
    generator = torch.Generator().manual_seed(0)
    network.train()
    assert not any(network.training for _ in _fine_tuning.forgotten(network, forget, 10, generator))
    assert all(network.training for _ in _fine_tuning.retained(network, retain, 64, generator))
    assert not network.training


def test_single_retained_row_is_no_problem_for_batch_norm(task):
    _, retain = task.records(30)
    one_left = dataclasses.replace(task, train=task.train.subset(torch.arange(30 + 65)))
    update = _unlearn(one_left, "fine_tune", "records", epochs=1, batch_size=64)
    assert len(one_left.records(30)[1]) == 65
    assert objective.logits(update.model, retain).isfinite().all()


def test_divergence_of_the_weights_asks_for_a_retrain(digits_mlp):
    with pytest.raises(NeedsRetrain, match="diverged"):
        _unlearn(digits_mlp, "negative_gradient", "records", learning_rate=10.0, epochs=200)


def test_calibrated_strength_finds_a_learning_rate_that_was_set_far_off(digits_mlp):
    forget, _ = digits_mlp.of_class()
    slow = _unlearn(
        digits_mlp, "boundary_shrink", "class", strength="calibrated", learning_rate=1e-6
    )
    assert slow.notes["learning_rate"] > 1e-4
    assert _accuracy(slow.model, forget) < 0.2
    wild = _unlearn(digits_mlp, "random_labels", "class", strength="calibrated", learning_rate=10.0)
    assert wild.notes["learning_rate"] < 10.0
    assert _accuracy(wild.model, forget) < 0.2


def test_calibrated_strength_without_held_out_rows_says_what_it_needs(digits_mlp):
    context = dataclasses.replace(digits_mlp.context, calibration=None)
    bare = dataclasses.replace(digits_mlp, context=context)
    with pytest.raises(WrongOptions, match="held-out calibration rows"):
        _unlearn(bare, "fine_tune", "records", strength="calibrated")


def test_chord_runs_from_the_model_to_the_moved_one(digits_mlp):
    moved = _unlearn(digits_mlp, "random_labels", "records", epochs=1).model
    apply = _strength.chord(digits_mlp.model, moved)
    start, end = objective.flatten(digits_mlp.model), objective.flatten(moved)
    assert torch.equal(objective.flatten(apply(0.0)), start)
    assert torch.equal(objective.flatten(apply(1.0)), end)
    assert torch.allclose(objective.flatten(apply(0.25)), start + 0.25 * (end - start), atol=1e-6)


def test_relabelled_rows_leave_the_storage_as_it_was(digits_mlp):
    forget, _ = digits_mlp.records(10)
    before = forget.y.clone()
    other = _fine_tuning.relabelled(forget, (forget.labels + 1) % 10)
    assert torch.equal(forget.y, before)
    assert torch.equal(other.labels, (forget.labels + 1) % 10)
    assert torch.equal(other.positions, forget.positions)
