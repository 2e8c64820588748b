"""Small real tasks for methods: trained networks on scikit-learn's digits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from unlearning import architectures
from unlearning.architectures import Transform
from unlearning.core import training
from unlearning.core.examples import Examples
from unlearning.core.update_log import UpdateLog
from unlearning.methods import Context

CLASS = 3


@dataclass(frozen=True)
class Task:
    """A trained model and what there is to forget."""

    model: nn.Module
    train: Examples
    test: Examples
    context: Context
    untrained: nn.Module

    def records(self, count: int) -> tuple[Examples, Examples]:
        """The first ``count`` training rows, and the others."""
        return split(self.train, torch.arange(len(self.train)) < count)

    def of_class(self) -> tuple[Examples, Examples]:
        """All training rows of one class, and the others."""
        return split(self.train, self.train.labels == CLASS)

    def given(self, kind: str) -> tuple[Examples, Examples, Context]:
        """Forget rows, retained rows and context of a kind of forgetting."""
        chosen = self.records(30) if kind == "records" else self.of_class()
        return *chosen, replace(self.context, kind=kind)


class Own(nn.Module):
    """A user's network: no transform, dropout, batch norm, an operator of its own, tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 24)
        self.norm = nn.BatchNorm1d(24)
        self.drop = nn.Dropout(0.2)
        self.mix = nn.Parameter(torch.eye(24))
        self.last = nn.Linear(24, 10)
        self.unused = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        h = functional.gelu(self.norm(self.first(x.flatten(1) / 16))) @ self.mix
        return self.last(self.drop(h))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def split(examples: Examples, chosen: Tensor) -> tuple[Examples, Examples]:
    return tuple(examples.subset(mask.nonzero()[:, 0]) for mask in (chosen, ~chosen))


def digits() -> Examples:
    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32)[:, None]
    y = torch.tensor(data.target)
    order = torch.randperm(len(y), generator=generator())
    return Examples(x[order], y[order])


def mlp() -> nn.Module:
    return architectures.classifier(
        "mlp", {"inputs": 64, "hidden": [64]}, Transform(scale=1 / 16), generator=generator(1)
    )


def batch_norm() -> nn.Module:
    return architectures.classifier(
        "all_cnn", {"channels": 1, "width": 4}, Transform(scale=1 / 16), generator=generator(1)
    )


def own() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Own()


def trained(fresh: Callable[[], nn.Module], *, rows: int, epochs: int, rate: float) -> Task:
    everything = digits()
    train = everything.subset(torch.arange(rows))
    validation = everything.subset(torch.arange(1000, 1400))
    recipe = training.Recipe(
        epochs=epochs, patience=epochs, batch_size=32, learning_rate=rate, alpha=0
    )
    untrained = fresh()
    log = UpdateLog(max_bytes=10**9)
    model = training.fit(
        copy.deepcopy(untrained), train, validation, recipe=recipe, generator=generator(2), log=log
    ).model
    context = Context(calibration=validation, fresh=fresh, recipe=recipe, update_log=log)
    return Task(model, train, everything.subset(torch.arange(1400, 1797)), context, untrained)


@pytest.fixture(scope="session")
def digits_mlp() -> Task:
    """A network of one hidden layer that fits 1,000 digits."""
    return trained(mlp, rows=1000, epochs=15, rate=1e-2)


@pytest.fixture(scope="session", params=[mlp, batch_norm, own], ids=lambda fresh: fresh.__name__)
def task(request: pytest.FixtureRequest) -> Task:
    """Three kinds of network, briefly trained: plain, with batch norm, and a user's own."""
    return trained(request.param, rows=300, epochs=4, rate=1e-2)
