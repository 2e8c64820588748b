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


def test_standard_error_of_few_rows_excuses_no_more_than_is_said(rows):
    """Of forty rows one in five loses its answer: a drop of 20 points, known to 6 points."""
    few = rows.subset(torch.arange(600)[objective.correct(Line(), rows)][:40])
    worse = Examples(few.x, few.y.clone(), few.rows)
    model = _losing(worse, 8)
    limits = {"loss_limit": 100.0, "accuracy_limit": 0.15}
    plain, bounded = (
        PairedGuard(Line(), worse, **limits, **more).look(model) for more in ({}, {"excused": 0.02})
    )
    assert plain.accuracy_drop == bounded.accuracy_drop == pytest.approx(0.2)
    assert plain.holds
    assert not bounded.holds
    assert PairedGuard(Line(), worse, **limits, excused=0.06).look(model).holds


class _Losing(Line):
    """A line that is wrong on the rows with these values of x."""

    def __init__(self, x):
        super().__init__()
        self.x = x

    def forward(self, x):
        return torch.where(torch.isin(x, self.x), -1.0, 1.0) * super().forward(x)


def _losing(rows, count):
    return _Losing(rows.x[rows.positions[:count]])


def test_points_that_are_chosen_are_excused_no_standard_error(rows):
    model = Line(0.5)
    plain = _guard(rows, accuracy_limit=1.0, certainty=math.inf).look(model)
    limits = {"accuracy_limit": 1.0, "certainty": math.inf, "loss_limit": plain.loss_rise - 1e-6}
    guard = _guard(rows, **limits)
    assert guard.look(model).holds
    assert not guard.look(model, chosen=True).holds
    # The end of a path is excused; where it does not hold, the points before it are not.
    network = Line()

    def load(weights):
        objective.load(network, weights)
        return network

    ends = [torch.tensor([1.0]), torch.tensor([0.5])]
    assert guards.last_that_holds(guard, ends, load)[2]
    _, seen, held = guards.last_that_holds(guard, [*ends, torch.tensor([-3.0])], load)
    assert not held
    assert seen.loss_rise <= limits["loss_limit"]
