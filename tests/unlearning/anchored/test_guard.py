import math

import pytest
import torch
from torch import nn

from unlearning.anchored import guard as guards
from unlearning.anchored.guard import PairedGuard
from unlearning.core import objective
from unlearning.core.examples import Examples


class Line(nn.Module):
    """Logits (x·w, 0)."""

    def __init__(self, w=1.0):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([w]))

    def forward(self, x):
        return torch.stack([x[:, 0] * self.w, torch.zeros(len(x))], 1)


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 1, generator=generator)
    flipped = torch.rand(600, generator=generator) < 0.1
    return Examples(x, ((x[:, 0] < 0) ^ flipped).long())


def _guard(rows, **limits):
    return PairedGuard(Line(), rows, **{"loss_limit": 0.05, "accuracy_limit": 0.05, **limits})


def _means(model, rows):
    loss = objective.losses(model, rows) - objective.losses(Line(), rows)
    right = objective.correct(Line(), rows).double() - objective.correct(model, rows).double()
    return float(loss.double().mean()), float(right.mean())


def test_what_is_seen_are_the_mean_differences_row_by_row(rows):
    seen = _guard(rows, loss_limit=0.0, accuracy_limit=0.0, certainty=math.inf).look(Line(0.5))
    rise, drop = _means(Line(0.5), rows)
    assert seen.rows == 600
    assert seen.loss_rise == pytest.approx(rise)
    assert seen.accuracy_drop == pytest.approx(drop) == 0


def test_lost_accuracy_breaks_it_whatever_the_loss(rows):
    assert not _guard(rows, loss_limit=100.0).look(Line(-0.2)).holds
    assert _guard(rows, loss_limit=100.0, accuracy_limit=1.0).look(Line(-0.2)).holds


def test_lost_loss_breaks_it_whatever_the_accuracy(rows):
    assert _means(Line(8.0), rows)[1] == 0
    assert not _guard(rows).look(Line(8.0)).holds
    assert _guard(rows, loss_limit=10.0).look(Line(8.0)).holds


def test_clear_cases_are_decided_by_the_first_portion(rows):
    assert _guard(rows).look(Line(-1.0)).rows == 128
    assert _guard(rows).look(Line()).rows == 128
    assert _guard(rows).look(Line()).holds


def test_no_number_breaks_it(rows):
    seen = _guard(rows).look(Line(math.nan))
    assert not seen.holds
    assert seen.loss_rise == math.inf


def test_the_last_point_that_holds_lies_between_two_of_the_path(rows):
    model = Line()
    path = [torch.tensor([w]) for w in (1.0, 0.8, -0.5, -1.0)]

    def load(weights):
        objective.load(model, weights)
        return model

    guard = _guard(rows, loss_limit=0.2)
    weights, seen, held = guards.last_that_holds(guard, path, load)
    assert not held
    assert seen.holds
    assert -0.5 < float(weights) < 0.8
    assert guard.look(load(weights)).holds
    assert not guard.look(load(weights - 0.1)).holds
    weights, _, held = guards.last_that_holds(guard, path[:2], load)
    assert held
    assert float(weights) == pytest.approx(0.8)


def test_where_nothing_holds_the_path_does_not_begin(rows):
    model = Line()

    def load(weights):
        objective.load(model, weights)
        return model

    guard = _guard(rows, loss_limit=1e-9, certainty=0.0)
    path = [torch.tensor([1.0]), torch.tensor([-50.0])]
    weights, seen, held = guards.last_that_holds(guard, path, load)
    assert (float(weights), seen.loss_rise, held) == (1.0, 0.0, False)


def test_mean_loss_may_lie_as_many_standard_errors_above_its_limit_as_is_said(rows):
    moved = Line(0.5)
    plain = _guard(rows, accuracy_limit=1.0, certainty=math.inf).look(moved)
    errors = {"accuracy_limit": 1.0, "certainty": math.inf, "loss_limit": plain.loss_rise - 1e-6}
    assert _guard(rows, **errors).look(moved).holds
    assert not _guard(rows, **errors, loss_errors=0.0).look(moved).holds
