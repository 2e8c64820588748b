import math

import pytest
import torch
from torch import nn

from unlearning.anchored import calibration, margins
from unlearning.anchored.calibration import Goal, Guard
from unlearning.core import objective
from unlearning.core.examples import Examples


class _Strength(nn.Module):
    """A model that is nothing but its strength."""

    def __init__(self, strength):
        super().__init__()
        self.strength = strength


def _goal(curve, target, tolerance):
    return Goal(lambda model: curve(model.strength), curve(0.0), target, tolerance)


@pytest.mark.parametrize(
    "curve",
    [
        lambda s: s,
        lambda s: s + 40 * s * s,
        lambda s: math.sqrt(s),
        lambda s: math.expm1(min(s, 700)),
    ],
)
@pytest.mark.parametrize("start", [1e-4, 0.5, 300.0])
def test_search_finds_the_strength_that_reaches_the_target(curve, start):
    looks = []
    goal = _goal(lambda s: looks.append(s) or curve(s), 2.0, 0.05)
    looks.clear()
    found = calibration.search(_Strength, goal=goal, start=start)
    assert found.status == "reached"
    assert found.passes == len(looks)
    assert curve(found.value) == pytest.approx(2.0, abs=0.05)
    assert found.reached == curve(found.value)
    assert found.passes <= 40


def test_search_takes_few_passes_from_a_fair_start():
    found = calibration.search(
        _Strength, goal=_goal(lambda s: s + 0.3 * s * s, 2.0, 0.05), start=1.0
    )
    assert found.passes <= 6


def test_a_target_already_met_needs_no_step():
    found = calibration.search(_Strength, goal=_goal(lambda s: 3 + s, 2.0, 0.1), start=1.0)
    assert (found.value, found.status, found.passes) == (0.0, "reached", 0)


def test_a_target_beyond_the_ceiling_is_said_to_be_unreachable():
    goal = _goal(lambda s: s / (1 + s), 2.0, 0.1)
    found = calibration.search(_Strength, goal=goal, start=1.0, ceiling=50.0)
    assert found.status == "unreachable"
    assert found.value == 50.0


@pytest.mark.parametrize("start", [0.3, 4.0])
def test_a_summit_below_the_target_ends_the_search_before_it(start):
    # The summit is at π/2; everything beyond is further from the model and reaches less.
    goal = _goal(math.sin, 2.0, 0.05)
    found = calibration.search(_Strength, goal=goal, start=start, ceiling=1000.0)
    assert found.status == "unreachable"
    assert 0 < found.value < 2.5
    assert found.reached == math.sin(found.value) > 0.5


def test_a_model_blown_up_counts_as_far_past_the_target():
    goal = _goal(lambda s: s if s < 3 else math.nan, 2.0, 0.05)
    found = calibration.search(_Strength, goal=goal, start=100.0)
    assert found.status == "reached"
    assert found.value == pytest.approx(2.0, abs=0.05)


def test_a_measure_that_jumps_is_reached_at_its_first_jump():
    goal = _goal(lambda s: float(s >= 0.7), 0.99, None)
    found = calibration.search(_Strength, goal=goal, start=0.01)
    assert found.status == "reached"
    assert 0.7 <= found.value <= 0.7 * 1.12


def _linear(scale=0.0):
    """Two classes told apart by the sign of one feature, with confidence ``scale``."""
    model = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-scale], [scale]]))
    return model


def _held_out(n=3000, noise=0.0):
    x = torch.randn(n, 1, generator=torch.Generator().manual_seed(0))
    return Examples(x, (x[:, 0] > 0).long())


def test_guard_measures_the_mean_loss_rise():
    rows = _held_out(900)
    guard = Guard(_linear(1.0), rows, limit=0.1, certainty=math.inf)
    rise, used = guard.rise(_linear(0.8))
    expected = (
        objective.losses(_linear(0.8), rows).mean() - objective.losses(_linear(1.0), rows).mean()
    )
    assert used == 900
    assert rise == pytest.approx(float(expected), rel=1e-5)


def test_guard_looks_at_few_rows_when_the_answer_is_plain():
    rows = _held_out()
    guard = Guard(_linear(1.0), rows, limit=0.05)
    unmoved, few = guard.rise(_linear(1.0))
    wrecked, also_few = guard.rise(_linear(-1.0))
    exact = (
        objective.losses(_linear(0.9), rows).mean() - objective.losses(_linear(1.0), rows).mean()
    )
    close_guard = Guard(_linear(1.0), rows, limit=float(exact))
    _, many = close_guard.rise(_linear(0.9))
    assert (unmoved, few, also_few) == (0.0, 128, 128)
    assert wrecked > 0.05
    assert many > few


def test_guard_agrees_with_itself_from_call_to_call():
    guard = Guard(_linear(1.0), _held_out(), limit=0.05)
    assert guard.rise(_linear(0.9)) == guard.rise(_linear(0.9))


def test_guard_holds_back_a_model_that_is_not_a_number():
    guard = Guard(_linear(1.0), _held_out(), limit=0.05)
    assert guard.rise(_linear(math.nan))[0] == math.inf


def _apply(strength):
    return _linear(1.0 - strength)


def test_guard_shortens_the_step_to_what_it_allows():
    rows = _held_out(2000)
    # The loss of these rows is what the goal wants to raise and the guard wants to keep.
    goal = calibration.loss_goal(
        _linear(1.0), rows, gap=0.5, generator=torch.Generator().manual_seed(0)
    )
    guard = Guard(_linear(1.0), rows, limit=0.1)
    free = calibration.search(_apply, goal=goal, start=0.1)
    held = calibration.search(_apply, goal=goal, guard=guard, start=0.1)
    assert free.status == "reached"
    assert held.status == "guarded"
    assert held.value < free.value
    assert held.guard_rise <= 0.1
    assert held.reached == pytest.approx(goal.measure(_apply(held.value)))
    # ... and not far below it: a quarter more would not hold.
    assert guard.rise(_apply(1.25 * held.value))[0] > 0.1


def test_a_given_strength_is_kept_while_the_guard_holds_and_shortened_otherwise():
    guard = Guard(_linear(1.0), _held_out(), limit=0.1)
    kept = calibration.guarded(_apply, 0.05, guard=guard)
    assert (kept.value, kept.status) == (0.05, "given")
    assert calibration.guarded(_apply, 2.0, guard=guard).status == "guarded"
    assert calibration.guarded(_apply, 2.0, guard=None).value == 2.0


def test_a_guard_that_never_holds_leaves_the_model_where_it_was():
    guard = Guard(_linear(1.0), _held_out(), limit=-1.0)
    found = calibration.guarded(_apply, 0.5, guard=guard)
    assert (found.value, found.status) == (0.0, "guarded")


def test_class_goal_measures_the_error_on_the_forgotten_class():
    rows = _held_out(200)
    goal = calibration.class_goal(_linear(1.0), rows, generator=torch.Generator().manual_seed(0))
    assert goal.base == 0.0
    assert goal.measure(_linear(-1.0)) == 1.0
    assert goal.target == pytest.approx(0.99)
    found = calibration.search(_apply, goal=goal, start=0.05)
    assert 1.0 < found.value <= 1.12


# Targets by row.


def _rows_and_targets():
    rows = _held_out(200)
    # Half of the rows should be unsure, the others stay as they are.
    own = margins.of_examples(_linear(2.0), rows)
    targets = torch.where(torch.arange(200) % 2 == 0, own / 2, own)
    return rows, own, targets


def test_margin_goal_is_met_where_the_mean_margin_is_that_of_the_targets():
    rows, own, targets = _rows_and_targets()
    goal = calibration.margin_goal(
        _linear(2.0), rows, targets=targets, generator=torch.Generator().manual_seed(0)
    )
    found = calibration.search(lambda s: _linear(2.0 * (1 - s)), goal=goal, start=0.01)
    # The margins of these models are proportional to their scale.
    expected = 1 - float(targets.mean() / own.mean())
    assert found.status == "reached"
    assert found.value == pytest.approx(expected, rel=0.05)


def test_row_far_below_its_target_does_not_stand_for_the_others():
    rows, own, targets = _rows_and_targets()
    goal = calibration.margin_goal(
        _linear(2.0), rows, targets=targets, generator=torch.Generator().manual_seed(0)
    )

    class Sharper(nn.Linear):
        """Rules out the label of the row with the largest input, and changes no other."""

        def forward(self, x):
            largest = (x == rows.x.max()).float()
            return super().forward(x) * (1 - 1e6 * largest)

    one_destroyed = Sharper(1, 2, bias=False)
    one_destroyed.load_state_dict(_linear(2.0).state_dict())
    one = goal.measure(one_destroyed) - goal.base
    assert 0 < one < (4 + float(own.max())) / 200


@pytest.mark.parametrize("targets", ["none", "reached"])
def test_rows_at_their_targets_or_without_any_give_no_goal(targets):
    rows, own, _ = _rows_and_targets()
    known = torch.full_like(own, math.nan) if targets == "none" else own
    generator = torch.Generator().manual_seed(0)
    found = calibration.margin_goal(_linear(2.0), rows, targets=known, generator=generator)
    assert found is None
