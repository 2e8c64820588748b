import copy
import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn import functional

from unlearning import architectures
from unlearning.anchored import class_walk
from unlearning.anchored.calibration import Guard
from unlearning.anchored.class_walk import Walk
from unlearning.architectures import Transform
from unlearning.core import objective, training
from unlearning.core.examples import Examples
from unlearning.curvature import estimation

LABEL = 3
TRAIN = 700
RECIPE = training.Recipe(epochs=25, patience=25, batch_size=32, learning_rate=2e-3, alpha=0)


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _fit(train, held_out, seed):
    network = architectures.classifier(
        "lenet5",
        {"channels": 1, "image_height": 8, "image_width": 8},
        Transform(scale=1 / 16, mean=(0.3,), std=(0.4,)),
        generator=_generator(seed),
    )
    return training.fit(network, train, held_out, recipe=RECIPE, generator=_generator(seed)).model


def _of_class(examples, *, inside):
    return examples.subset(((examples.labels == LABEL) == inside).nonzero()[:, 0])


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32)[:, None]
    order = torch.randperm(len(x), generator=_generator())
    return Examples(x[order], torch.tensor(data.target)[order])


@pytest.fixture(scope="module")
def train(digits):
    return digits.subset(torch.arange(TRAIN))


@pytest.fixture(scope="module")
def held_out(digits):
    return digits.subset(torch.arange(TRAIN, 1000))


@pytest.fixture(scope="module")
def unseen(digits):
    return digits.subset(torch.arange(1000, len(digits)))


@pytest.fixture(scope="module")
def model(train, held_out):
    return _fit(train, held_out, 0)


@pytest.fixture(scope="module")
def forget(train):
    return _of_class(train, inside=True)


@pytest.fixture(scope="module")
def retain(train):
    return _of_class(train, inside=False)


@pytest.fixture(scope="module")
def walked(model, forget, retain):
    """What the usual walk comes to; no test changes it."""
    return _leave(model, forget, retain)


def _leave(model, forget, retain, **given):
    given = {"accuracy": 0.01, "guard": None, "generator": _generator()} | given
    return class_walk.leave(model, forget, retain, **given)


def _accuracy(model, examples):
    return float(objective.correct(model, examples).double().mean())


def _loss(model, examples):
    return float(objective.losses(model, examples).double().mean())


@pytest.mark.seconds
def test_class_is_expected_as_little_as_one_that_was_never_seen(model, forget, retain):
    before = copy.deepcopy(model.state_dict())
    walked = _leave(model, forget, retain)
    target = math.log(len(retain) + 2)
    assert walked.strength.status == "reached"
    assert walked.strength.target == target
    assert _loss(walked.model, forget) == pytest.approx(target, rel=0.06)
    assert _accuracy(walked.model, forget) <= 0.01
    assert 1 < walked.steps <= Walk().most_steps
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


@pytest.mark.seconds
def test_other_classes_fare_as_after_retraining(model, walked, retain, held_out, unseen):
    others = _of_class(unseen, inside=False)
    kept = _of_class(held_out, inside=False)
    retrained = [_accuracy(_fit(retain, kept, seed), others) for seed in (1, 2)]
    accuracy = _accuracy(walked.model, others)
    assert accuracy >= min(retrained) - 0.01
    assert accuracy >= _accuracy(model, others) - 0.01


@pytest.mark.parametrize("stride", [0.1, 0.5])
def test_one_straight_line_does_not_get_there_or_costs_the_other_classes(
    model, forget, retain, unseen, walked, stride
):
    straight = _leave(model, forget, retain, walk=Walk(growth=1e9, stride=stride, most_steps=1))
    if straight.strength.status == "reached":
        others = _of_class(unseen, inside=False)
        assert _accuracy(straight.model, others) < _accuracy(walked.model, others)
    else:
        assert straight.strength.reached < straight.strength.target
        assert _accuracy(straight.model, forget) > 0.01


@pytest.mark.seconds
@pytest.mark.parametrize("preconditioner", ["none", "kfac"])
def test_first_step_follows_its_definition(model, forget, retain, preconditioner):
    walk = Walk(rows=len(retain), preconditioner=preconditioner, most_steps=1)
    walked = _leave(model, forget, retain, walk=walk)
    names = list(objective.step_parameters(model))

    def mean_gradient(rows):
        total = 0
        for x, y in zip(rows.x[rows.positions], rows.labels, strict=True):
            loss = functional.cross_entropy(model(x[None]), y[None])
            pieces = torch.autograd.grad(loss, [model.get_parameter(n) for n in names])
            total = total + torch.cat([g.flatten() for g in pieces]).double()
        return total / len(rows)

    expected = mean_gradient(forget) - mean_gradient(retain)
    if preconditioner == "kfac":
        curvature = estimation.estimate(
            model, retain, fisher="empirical", relative_damping=walk.damping, generator=_generator()
        )
        expected = curvature.solve(expected)
    moved = objective.flatten(walked.model).double() - objective.flatten(model).double()
    assert float(functional.cosine_similarity(moved, expected, dim=0)) > 0.9999
    assert float(moved.norm()) == pytest.approx(walked.strength.value, rel=1e-3)


def test_guard_ends_the_walk_where_it_no_longer_holds(model, forget, retain, held_out):
    # Rows of the class itself: their loss is what the walk raises.
    guard = Guard(model, _of_class(held_out, inside=True), limit=0.5)
    held = _leave(model, forget, retain, guard=guard)
    assert held.strength.status == "guarded"
    assert 0 < held.strength.guard_rise <= 0.5
    assert guard.rise(held.model)[0] <= 0.5
    assert held.strength.reached == pytest.approx(_loss(held.model, forget))


def test_class_that_is_gone_already_takes_no_step(forget, retain, walked):
    gone = walked.model
    again = _leave(gone, forget, retain)
    assert (again.steps, again.strength.value, again.strength.status) == (0, 0.0, "reached")
    assert all(
        torch.equal(t, gone.state_dict()[name]) for name, t in again.model.state_dict().items()
    )


def test_cost_is_that_of_a_sample(model, forget, retain, monkeypatch):
    read = []
    estimate, summed = estimation.estimate, objective.summed_gradient_and_losses
    monkeypatch.setattr(
        estimation,
        "estimate",
        lambda m, rows, **o: read.append(len(rows)) or estimate(m, rows, **o),
    )
    monkeypatch.setattr(
        objective,
        "summed_gradient_and_losses",
        lambda m, rows, **o: read.append(len(rows)) or summed(m, rows, **o),
    )
    _leave(model, forget, retain, walk=Walk(rows=40))
    assert set(read) == {40}


def test_steps_that_lead_nowhere_are_said_to_be_unreachable(model, forget, retain):
    stuck = _leave(model, forget, retain, walk=Walk(stride=1e-6, most_steps=2))
    assert stuck.strength.status == "unreachable"
    assert stuck.steps == 2
