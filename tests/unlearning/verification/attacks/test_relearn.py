"""Rows that left traces are learned again sooner than rows never seen."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from unlearning.core.examples import Examples
from unlearning.verification.attacks import relearn


def trained(examples: Examples, steps: int) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    x, y = next(examples.batches(len(examples)))
    for _ in range(steps):
        optimiser.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    return model


@pytest.fixture(scope="module")
def digits() -> Examples:
    """Digits with labels drawn by lot, so that they can only be learned by heart."""
    x = torch.tensor(load_digits().data, dtype=torch.float32) / 16
    y = torch.randint(10, (len(x),), generator=torch.Generator().manual_seed(1))
    return Examples(x, y)


def test_known_rows_relearn_at_once_and_unknown_rows_do_not(digits: Examples) -> None:
    forget = digits.subset(torch.arange(100))
    never_seen = digits.subset(torch.arange(100, 400))
    model = trained(forget, 100)
    before = copy.deepcopy(model.state_dict())
    found = relearn.measure(
        model,
        forget,
        never_seen,
        control=copy.deepcopy(model),
        options=relearn.Options(learning_rate=1e-2),
        generator=torch.Generator().manual_seed(0),
    )
    assert found.forget_steps == 0
    assert found.never_seen_steps is not None
    assert found.never_seen_steps > 5
    assert found.ratio is not None
    assert found.ratio < 0.2
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_model_that_saw_neither_learns_both_in_about_the_same_time(digits: Examples) -> None:
    model = trained(digits.subset(torch.arange(400, 600)), 20)
    forget = digits.subset(torch.arange(100))
    found = relearn.measure(
        model,
        forget,
        digits.subset(torch.arange(100, 400)),
        control=trained(forget, 40),
        options=relearn.Options(learning_rate=1e-2),
        generator=torch.Generator().manual_seed(0),
    )
    assert found.ratio == pytest.approx(1.0, abs=0.35)


@pytest.mark.parametrize("pool", [300, 30, 15])
def test_a_small_pool_of_never_seen_rows_does_not_hide_memory(digits: Examples, pool: int) -> None:
    """Few rows are learned sooner than many, so both sides must have as many of each class."""
    forget = digits.subset(torch.arange(100))
    model = trained(digits.subset(torch.arange(400, 600)), 20)
    found = relearn.measure(
        model,
        forget,
        digits.subset(torch.arange(100, 100 + pool)),
        control=trained(forget, 40),
        options=relearn.Options(learning_rate=1e-2),
        generator=torch.Generator().manual_seed(0),
    )
    assert found.rows <= pool
    assert found.ratio == pytest.approx(1.0, abs=0.35)


def test_both_sides_are_given_for_the_base_version_and_for_references(digits: Examples) -> None:
    forget, other = digits.subset(torch.arange(100)), digits.subset(torch.arange(400, 600))
    base, fresh = trained(forget, 60), trained(other, 20)
    found = relearn.measure(
        fresh,
        forget,
        digits.subset(torch.arange(100, 400)),
        control=base,
        references=[fresh, base],
        options=relearn.Options(learning_rate=1e-2),
        generator=torch.Generator().manual_seed(0),
    )
    assert found.control is not None
    assert found.control.forget_steps == 0
    assert found.control.ratio is not None
    assert found.control.ratio < 0.3
    assert found.references[0] == replace(found, control=None, references=())
    assert found.references[1] == found.control


def test_known_rows_are_told_although_never_seen_ones_are_given_up(digits: Examples) -> None:
    forget = digits.subset(torch.arange(100))
    model = trained(forget, 100)
    found = relearn.measure(
        model,
        forget,
        digits.subset(torch.arange(100, 400)),
        control=copy.deepcopy(model),
        options=relearn.Options(most_steps=3),
        generator=torch.Generator().manual_seed(0),
    )
    assert (found.forget_steps, found.never_seen_steps, found.ratio) == (0, None, None)
    # Never-seen rows take four steps or more.
    assert found.largest_ratio == pytest.approx(1 / 5)


def test_giving_up_leaves_no_ratio(digits: Examples) -> None:
    forget = digits.subset(torch.arange(50))
    found = relearn.measure(
        trained(forget, 1),
        forget,
        digits.subset(torch.arange(50, 200)),
        control=trained(forget, 200),
        options=relearn.Options(most_steps=2),
        generator=torch.Generator().manual_seed(0),
    )
    assert (found.forget_steps, found.never_seen_steps, found.ratio) == (None, None, None)
    assert found.largest_ratio is None


def test_rows_of_classes_that_nobody_else_has_are_not_learned(digits: Examples) -> None:
    twos = digits.subset(torch.nonzero(digits.y == 2)[:, 0])
    threes = digits.subset(torch.nonzero(digits.y == 3)[:, 0])
    found = relearn.measure(
        trained(twos, 1),
        twos,
        threes,
        control=trained(twos, 1),
        generator=torch.Generator().manual_seed(0),
    )
    assert (found.rows, found.ratio) == (0, None)


def test_both_sides_have_the_same_classes(digits: Examples) -> None:
    forget = digits.subset(torch.nonzero(digits.y < 2)[:60, 0])
    scarce = torch.cat(
        [torch.nonzero(digits.y == 0)[-7:, 0], torch.nonzero(digits.y > 0)[-300:, 0]]
    )
    ours, theirs = relearn._alike(forget, digits.subset(scarce), torch.Generator().manual_seed(0))
    counts = torch.bincount(ours.labels, minlength=10)
    np.testing.assert_array_equal(counts, torch.bincount(theirs.labels, minlength=10))
    assert counts[0] == 7
    assert counts[1] == min(int((forget.labels == 1).sum()), int((digits.y[scarce] == 1).sum()))
    assert len(torch.unique(ours.positions)) == len(ours)
