"""Rows that left traces are learned again sooner than rows never seen."""

import copy

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from unlearning.examples import Examples
from unlearning.verification import relearn


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


def test_rows_still_known_are_relearned_at_once_and_unknown_ones_are_not(digits: Examples) -> None:
    forget = digits.subset(torch.arange(100))
    never_seen = digits.subset(torch.arange(100, 400))
    model = trained(forget, 100)
    before = copy.deepcopy(model.state_dict())
    found = relearn.measure(
        model,
        forget,
        never_seen,
        base_loss=0.5,
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
    found = relearn.measure(
        model,
        digits.subset(torch.arange(100)),
        digits.subset(torch.arange(100, 400)),
        base_loss=0.5,
        options=relearn.Options(learning_rate=1e-2),
        generator=torch.Generator().manual_seed(0),
    )
    assert found.ratio == pytest.approx(1.0, abs=0.35)


def test_giving_up_leaves_no_ratio(digits: Examples) -> None:
    model = trained(digits.subset(torch.arange(50)), 1)
    found = relearn.measure(
        model,
        digits.subset(torch.arange(50)),
        digits.subset(torch.arange(50, 200)),
        base_loss=0.0,
        options=relearn.Options(most_steps=2),
        generator=torch.Generator().manual_seed(0),
    )
    assert found == relearn.RelearnTime(None, None)
    assert found.ratio is None


def test_never_seen_rows_have_the_classes_of_the_forget_rows(digits: Examples) -> None:
    forget = digits.subset(torch.nonzero(digits.y < 2)[:60, 0])
    never_seen = digits.subset(torch.arange(800, 1797))
    drawn = relearn._same_classes(never_seen, forget.labels, torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(
        torch.bincount(drawn.labels, minlength=10), torch.bincount(forget.labels, minlength=10)
    )
