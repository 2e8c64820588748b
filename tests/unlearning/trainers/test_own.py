"""Training code of another package: what it is given, and what it may return."""

from __future__ import annotations

import math
from types import ModuleType

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from unlearning import methods, trainers
from unlearning.anchored import margins
from unlearning.core import objective, task, training
from unlearning.core.examples import Examples
from unlearning.core.update_log import UpdateLog
from unlearning.errors import BadDeclaration, BadTraining, UnknownName, WrongOptions
from unlearning.methods import Context
from unlearning.trainers import Own, Rows, _declaration
from workers.compute import failures

MODULE = '''
"""Plain gradient descent on all rows at once."""
from dataclasses import dataclass
import torch
from torch.nn import functional


@dataclass(frozen=True)
class Options:
    #: Steps.
    steps: int = 5


def train(task, rows, *, seed, progress, options):
    x, y = rows[torch.arange(len(rows))]
    for step in range(options.steps):
        loss = functional.cross_entropy(task.model(x), y)
        task.model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for p in task.model.parameters():
                p -= 0.5 * p.grad
        progress((step + 1) / options.steps)
    return task.model.state_dict()
'''


def _module(text=MODULE):
    made = ModuleType("descent")
    exec(compile(text, "descent", "exec", dont_inherit=True), made.__dict__)
    made.__doc__ = "Plain gradient descent on all rows at once."
    return made


def _digits():
    digits = load_digits()
    return Examples(torch.tensor(digits.data / 16).float(), torch.tensor(digits.target))


TRAIN, VALIDATION = torch.arange(40, 100), torch.arange(200, 240)


def _model():
    torch.manual_seed(0)
    return nn.Linear(64, 10)


def _own(code=None, **stated):
    declared = _declaration.read("descent", _module())
    return Own("descent", code or declared.train, declared.options(**stated))


def _fit(recipe, **more):
    digits = _digits()
    return training.fit(
        more.pop("model", None) or _model(),
        digits.subset(TRAIN),
        digits.subset(VALIDATION),
        recipe=recipe,
        generator=torch.Generator().manual_seed(1),
        **more,
    )


def _by_hand(rows, steps=5):
    model, digits = _model(), _digits()
    for _ in range(steps):
        loss = functional.cross_entropy(model(digits.x[rows]), digits.y[rows])
        grads = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for p, grad in zip(model.parameters(), grads, strict=True):
                p -= 0.5 * grad
    return objective.flatten(model)


def test_weights_are_those_that_its_code_gives():
    seen, reached, log = [], [], UpdateLog(max_bytes=1 << 20)
    found = _fit(
        _own(), progress=seen.append, ended=lambda epoch, one: reached.append((epoch, one)), log=log
    )
    assert torch.equal(objective.flatten(found.model), _by_hand(TRAIN))
    assert seen == [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]
    ((epoch, one),) = reached
    assert (epoch, found.best_epoch, found.history) == (0, 0, (one,))
    losses = objective.losses(found.model, _digits().subset(TRAIN))
    assert one.training_loss == pytest.approx(float(losses.double().mean()))
    assert one.learning_rate is None
    assert not log.complete


def test_retrain_and_margins_use_the_same_code_on_their_own_rows():
    digits = _digits()
    method = methods.get("retrain")
    context = Context(calibration=digits.subset(VALIDATION), fresh=_model, recipe=_own())
    generator = torch.Generator().manual_seed(3)
    update = method.unlearn(
        _model(),
        digits.subset(TRAIN[:5]),
        digits.subset(TRAIN[5:]),
        options=method.options(),
        context=context,
        generator=generator,
    )
    assert torch.equal(objective.flatten(update.model), _by_hand(TRAIN[5:]))
    with pytest.raises(WrongOptions, match="the trainer descent knows no epochs"):
        method.unlearn(
            _model(),
            digits.subset(TRAIN[:5]),
            digits.subset(TRAIN[5:]),
            options=method.options(epochs=3),
            context=context,
            generator=generator,
        )
    model = _model()
    trainer = margins.by_recipe(_own(), digits.subset(VALIDATION))
    assert trainer(model, digits.subset(TRAIN[:30]), generator, lambda _done: None) == 1
    assert torch.equal(objective.flatten(model), _by_hand(TRAIN[:30]))


def test_what_it_minimises_is_taken_to_be_the_loss():
    assert training.loss_of(_own(), _model(), _digits()) is task.PLAIN


def test_same_seed_gives_the_same_random_numbers():
    def code(task, rows, *, seed, progress, options):
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(10, generator=generator) + torch.randn(10)
        return {**task.model.state_dict(), "bias": drawn}

    torch.manual_seed(5)
    first = _fit(_own(code)).model.bias
    torch.manual_seed(6)
    model = nn.Linear(64, 10)
    before = torch.get_rng_state()
    assert torch.equal(_fit(_own(code), model=model).model.bias, first)
    assert torch.equal(torch.get_rng_state(), before)


def test_rows_are_those_of_its_training_alone_and_copies():
    digits = _digits()
    rows = Rows(digits.subset(TRAIN))
    assert len(rows) == 60
    assert torch.equal(rows.labels, digits.y[TRAIN])
    x, y = rows[torch.tensor([7, 0])]
    assert torch.equal(x, digits.x[TRAIN[[7, 0]]])
    assert torch.equal(y, digits.y[TRAIN[[7, 0]]])
    x.zero_()
    assert torch.equal(rows[7][0], digits.x[47])
    assert torch.equal(rows[-1][0], digits.x[99])
    for outside in (60, -61):
        with pytest.raises(IndexError):
            rows[outside]
    loaded = [y for _, y in DataLoader(rows, batch_size=16)]
    assert torch.equal(torch.cat(loaded), digits.y[TRAIN])
    drawn = list(rows.batches(7, generator=torch.Generator().manual_seed(0)))
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.cat([y for _, y in drawn]), digits.y[TRAIN[order]])
    assert [name for name in vars(rows) if not name.startswith("_")] == []


def _returning(change):
    def code(task, rows, *, seed, progress, options):
        return change(task.model.state_dict())

    return code


def _raising(task, rows, *, seed, progress, options):
    with torch.no_grad():
        task.model.weight.zero_()
    raise KeyError("no such thing")


def _misreporting(task, rows, *, seed, progress, options):
    progress(math.nan)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (_raising, "the trainer descent raised KeyError: 'no such thing'"),
        (_misreporting, "reported a progress that is no number"),
        (_returning(lambda _: None), "returned NoneType in place of weights"),
        (_returning(lambda named: {"bias": named["bias"]}), "returned no weights weight"),
        (
            _returning(lambda named: {**named, "more": named["bias"]}),
            "returned weights that the network has not: more",
        ),
        (
            _returning(lambda named: {**named, "bias": named["bias"][:9]}),
            r"returned bias as float32 \(9,\), and the network has float32 \(10,\)",
        ),
        (
            _returning(lambda named: {**named, "bias": named["bias"].double()}),
            "returned bias as float64",
        ),
        (_returning(lambda named: {**named, "bias": [0.0] * 10}), "returned bias as no tensor"),
        (
            _returning(lambda named: {**named, "bias": named["bias"] / 0}),
            "returned values in bias that are not finite",
        ),
    ],
)
def test_code_that_gives_no_usable_weights_is_one_error_and_leaves_the_model(code, why):
    model = _model()
    before = objective.flatten(model)
    with pytest.raises(BadTraining, match=why):
        _fit(_own(code), model=model)
    assert torch.equal(objective.flatten(model), before)


def test_errors_of_the_machine_and_stops_are_not_the_trainers():
    def full(task, rows, *, seed, progress, options):
        raise MemoryError

    def full_of_tensors(task, rows, *, seed, progress, options):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 8 bytes")

    with pytest.raises(MemoryError):
        _fit(_own(full))
    with pytest.raises(BadTraining) as found:
        _fit(_own(full_of_tensors))
    assert failures.kind(found.value) == failures.kind(MemoryError())

    class Stopped(Exception):
        pass

    def stop(_done):
        raise Stopped

    with pytest.raises(Stopped):
        _fit(_own(), progress=stop)


def test_network_that_is_fitted_to_its_minimum_takes_no_trainer():
    class Solved(nn.Linear):
        def fit_to_minimum(self, train, validation, progress):
            raise AssertionError

    with pytest.raises(WrongOptions, match="leave descent out of the recipe"):
        training.check(_own(), Solved(2, 2), _digits())


@pytest.mark.parametrize(
    ("name", "word", "other", "why"),
    [
        ("default", "", "", "own recipe has this name"),
        ("a", "def train", "def teach", "does not define train"),
        ("a", "(task, rows, *, seed,", "(task, *, seed,", "train must be called as"),
        ("a", "(frozen=True)", "", "must be a frozen dataclass"),
        ("a", "steps: int = 5", "steps: int", "every option needs a default"),
        ("a", "steps: int = 5", "trainer: int = 5", "no option may be called trainer"),
        ("a", "steps: int = 5", "steps: type = torch.Tensor", "has no JSON schema"),
    ],
)
def test_wrong_declarations_are_refused(name, word, other, why):
    with pytest.raises(BadDeclaration, match=why):
        _declaration.read(name, _module(MODULE.replace(word, other) if word else MODULE))


def test_recipe_without_a_trainer_is_ours_and_unknown_ones_are_named():
    assert trainers.recipe({"epochs": 3}) == training.Recipe(epochs=3)
    with pytest.raises(UnknownName, match=r"no trainer is called 'nobody'.*install its package"):
        trainers.recipe({"trainer": "nobody"})
    with pytest.raises(WrongOptions, match="must be the name"):
        trainers.recipe({"trainer": 3})
