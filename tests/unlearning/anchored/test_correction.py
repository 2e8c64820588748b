import math

import pytest
import torch
from torch import nn

from unlearning.anchored import correction
from unlearning.anchored.correction import Settings
from unlearning.core import objective
from unlearning.core.examples import Examples


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _rows(n, seed):
    """Rows of two classes that a line separates."""
    x = torch.randn(n, 3, generator=_generator(seed), dtype=torch.float64)
    return Examples(x, (x.sum(1) > 0).long())


def _network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double()


def _corrected(network, retain, validation, **settings):
    return correction.correct(
        network.eval(), retain, validation, settings=Settings(**settings), generator=_generator()
    )


def test_the_correction_is_adam_on_the_retained_rows_mean_loss():
    network, retain = _network(), _rows(20, 1)
    found = _corrected(network, retain, _rows(200, 2), steps=32, rows=20, learning_rate=0.01)
    assert found.steps == 32
    # All rows are one mini-batch: by the formulas of Kingma and Ba, algorithm 1.
    parameters = list(objective.step_parameters(network).values())
    theta = objective.flatten(network)
    m, v = torch.zeros_like(theta), torch.zeros_like(theta)
    for t in range(1, 33):
        objective.load(network, theta)
        loss = nn.functional.cross_entropy(network(retain.x), retain.y)
        g = torch.cat([one.flatten() for one in torch.autograd.grad(loss, parameters)])
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        theta = theta - 0.01 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
    torch.testing.assert_close(found.weights, theta, rtol=1e-6, atol=1e-9)
    objective.load(network, theta)
    expected = objective.losses(network, _rows(200, 2))
    torch.testing.assert_close(found.losses, expected, rtol=1e-6, atol=1e-9)


def test_nothing_is_corrected_that_validation_rows_do_not_approve_of():
    network, retain = _network(), _rows(20, 1)
    start, state = (
        objective.flatten(network),
        {k: t.clone() for k, t in network.state_dict().items()},
    )
    other = _rows(200, 2)
    opposite = Examples(other.x, 1 - other.y)
    found = _corrected(network, retain, opposite, steps=32, learning_rate=0.01)
    assert found.steps == 0
    assert torch.equal(found.weights, start)
    # Neither the weights given nor running statistics are changed, whatever comes of it.
    _corrected(network, retain, other, steps=32, learning_rate=0.01)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, state[name])


def test_steps_end_after_two_comparisons_that_are_clearly_worse():
    network, retain = _network(), _rows(20, 1)
    other, taken = _rows(200, 2), []
    network.register_forward_hook(
        lambda _module, _given, logits: taken.append(1) if logits.requires_grad else None
    )
    opposite = Examples(other.x, 1 - other.y)
    found = _corrected(network, retain, opposite, steps=32, rows=20, learning_rate=0.01)
    assert found.steps == 0
    assert len(taken) == 4  # after 2 and 4 of the 32 steps
    assert all(p.grad is None for p in network.parameters())
    taken.clear()
    assert _corrected(network, retain, other, steps=32, rows=20, learning_rate=0.01).steps == 32
    assert len(taken) == 32


def test_the_weights_with_the_lowest_validation_loss_are_taken():
    """Long steps on few rows: first better for all rows, then only for these few."""
    network, validation = _network(), _rows(400, 2)
    wrong = _rows(12, 1)
    retain = Examples(wrong.x, wrong.y.clone().index_fill(0, torch.tensor([0, 1, 2]), 1))
    settings = {"rows": 12, "learning_rate": 0.1}
    found = _corrected(network, retain, validation, steps=256, **settings)
    looked = []
    for steps in (16, 32, 64, 128, 256):
        # One more look, after the last step alone, is at these weights.
        walked = list(
            correction._walk(
                copied := _copy(network), retain, Settings(steps=steps, **settings), _generator()
            )
        )
        assert walked[-1] == steps
        looked.append((float(objective.losses(copied, validation).mean()), steps))
    assert found.steps == min(looked)[1] < 256
    assert float(found.losses.mean()) == pytest.approx(min(looked)[0], rel=1e-9)


def _copy(network):
    copied = _network()
    copied.load_state_dict(network.state_dict())
    return copied.eval()


def test_losses_differ_beyond_the_standard_error_of_pairs():
    before = torch.rand(400, generator=_generator(1), dtype=torch.float64)
    noise = torch.randn(400, generator=_generator(2), dtype=torch.float64)
    noise = (noise - noise.mean()) / noise.std()
    error = 1 / math.sqrt(400)
    for shift, differs in ((0.9, False), (1.1, True)):
        after = before + noise + shift * error
        assert correction.differ(before, after) is differs
        assert correction.differ(after, before) is differs
        assert not correction.lower(before, after)
        assert correction.lower(after, before) is differs
    # A change that is certain but small does not count.
    assert not correction.differ(before, 1.009 * before)
    assert correction.differ(before, 1.011 * before)
    assert not correction.lower(before[:1], before[:1] - 1)
