import pytest
import torch
from torch import nn

from unlearning.core.examples import Examples
from unlearning.methods import Context, _squared_gradients, fisher


class Stubborn(nn.Module):
    """Decides by value which way to go, so that it cannot be vectorised over rows."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x) if float(x.sum()) > 0 else self.layer(2 * x)


@pytest.fixture
def examples():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(11, 4, generator=generator)
    return Examples(x, torch.randint(3, (11,), generator=generator))


def _network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).eval()


def _one_by_one(model, examples, labels_of):
    """E_x Σ over labels of weight·(∂ log p)², by one backward pass per row and label."""
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for x, y in zip(examples.x, examples.labels, strict=True):
        for label, weight in labels_of(model(x[None])[0].detach().softmax(0), int(y)):
            model.zero_grad()
            model(x[None])[0].log_softmax(0)[label].backward()
            for name, p in model.named_parameters():
                total[name] += weight * p.grad**2 / len(examples)
    model.zero_grad()
    return total


def _close(first, second):
    return all(torch.allclose(first[name], t, rtol=1e-4, atol=1e-7) for name, t in second.items())


@pytest.mark.parametrize("network", [_network, Stubborn])
def test_expected_diagonal_is_the_loop_over_rows_and_classes(network, examples):
    model = network()
    slow = _one_by_one(model, examples, lambda p, _y: list(enumerate(p.tolist())))
    assert _close(_squared_gradients.expected(model, examples), slow)


@pytest.mark.parametrize("network", [_network, Stubborn])
def test_empirical_diagonal_is_the_loop_over_rows(network, examples):
    model = network()
    slow = _one_by_one(model, examples, lambda _p, y: [(y, 1.0)])
    assert _close(_squared_gradients.empirical(model, examples), slow)


def test_noise_has_the_variance_of_the_inverse_information_up_to_its_bound():
    information = torch.tensor([0.0, 1e-9, 1e-4, 1.0, 50.0])
    options = fisher.Options(alpha=1e-6, largest=1e3)
    variance = torch.tensor([1e-3, 1e-3, 1e-3, 1e-6, 2e-8])
    assert torch.allclose(fisher.deviation(information, options=options) ** 2, variance, rtol=1e-3)


def test_weights_that_the_retained_rows_pin_down_move_least(examples):
    model = nn.Linear(4, 3)
    # The third input never varies from zero: nothing pins its weights down.
    blind = Examples(examples.x * torch.tensor([1.0, 1.0, 0.0, 1.0]), examples.y)
    update = fisher.unlearn(
        model,
        blind.subset(torch.arange(2)),
        blind.subset(torch.arange(2, 11)),
        options=fisher.Options(alpha=1e-6),
        context=Context(),
        generator=torch.Generator().manual_seed(0),
    )
    moved = (update.model.weight - model.weight).abs().mean(0)
    assert moved[2] > 3 * moved[[0, 1, 3]].max()
