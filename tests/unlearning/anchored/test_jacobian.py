"""Rows of and products with the Jacobian of the margins, against a loop over the rows."""

import pytest
import torch
from torch import nn

from tests.unlearning.anchored import small
from tests.unlearning.operators import Square
from unlearning.anchored.jacobian import Jacobian
from unlearning.core.examples import Examples


class Frozen(nn.Module):
    """A layer that is trainable by declaration and runs without a gradient."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(5, 6).double(), nn.Linear(6, 4).double()

    def forward(self, x):
        with torch.no_grad():
            h = self.body(x).relu()
        return self.head(h)


class OwnFunction(nn.Module):
    """An operator that can neither be vectorised nor pushed forward."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(5, 6).double(), nn.Linear(6, 4).double()

    def forward(self, x):
        return self.head(Square.apply(self.body(x)))


class Attention(nn.Module):
    """A token for each feature."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(1, 8).double()
        self.encode = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).double()
        self.head = nn.Linear(8, 4).double()

    def forward(self, x):
        return self.head(self.encode(self.embed(x[:, :, None])).mean(1))


@pytest.mark.parametrize("kind", [Frozen, OwnFunction, Attention, small.network, small.convolution])
def test_jacobians_products_and_rows_are_those_of_a_loop(kind):
    torch.manual_seed(0)
    model = kind().eval()
    examples = small.examples(7, (1, 6, 6) if kind is small.convolution else (5,))
    j = small.jacobian(model, examples) if kind is not Frozen else _with_zeros(model, examples)
    ours = Jacobian(model, examples, batch_size=3)
    weights = torch.randn(7, generator=small.generator(), dtype=torch.float64)
    vector = torch.randn(j.shape[1], generator=small.generator(1), dtype=torch.float64)
    torch.testing.assert_close(ours.transposed(weights), j.T @ weights)
    # OwnFunction's is a central difference.
    torch.testing.assert_close(ours.times(vector), j @ vector, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cat(list(ours.rows(size=4))), j)


def test_a_central_difference_is_as_good_with_small_weights():
    torch.manual_seed(0)
    model = OwnFunction().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.01)
    examples = small.examples(7, (5,))
    j = small.jacobian(model, examples)
    vector = torch.randn(j.shape[1], generator=small.generator(1), dtype=torch.float64)
    error = Jacobian(model, examples, batch_size=3).times(vector) - j @ vector
    assert error.norm() < 1e-3 * (j @ vector).norm()


def _with_zeros(model, examples):
    """J of a network whose first layer has no gradient."""
    head = small.jacobian(
        nn.Sequential(model.head), Examples(model.body(examples.x).relu().detach(), examples.y)
    )
    body = sum(p.numel() for p in model.body.parameters())
    return torch.cat([torch.zeros(len(examples), body, dtype=torch.float64), head], 1)
