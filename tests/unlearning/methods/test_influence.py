import copy
import dataclasses

import pytest
import torch
from torch import nn

from unlearning.core import objective, task
from unlearning.core.examples import Examples
from unlearning.errors import UnusableDirection
from unlearning.methods import influence


class Linear(nn.Module):
    """y = W·x, with any number of outputs."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        return x @ self.weight.T


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def small(generator):
    """A network with 67 parameters and 24 rows, in float64."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3), nn.Identity()).double()
    x = torch.randn(24, 5, generator=generator, dtype=torch.float64)
    return network, Examples(x, torch.randint(3, (24,), generator=generator))


def _dense_gauss_newton(network, examples):
    """mean over rows of Jᵀ·(diag p − p·pᵀ)·J, from each row's explicit Jacobian."""
    parameters = list(network.parameters())
    total = 0
    for row in examples.x:
        logits = network(row[None])[0]
        jacobian = torch.stack(
            [
                torch.cat(
                    [g.reshape(-1) for g in torch.autograd.grad(z, parameters, retain_graph=True)]
                )
                for z in logits
            ]
        )
        p = logits.detach().softmax(0)
        total += jacobian.T @ (p.diag() - torch.outer(p, p)) @ jacobian
    return total / len(examples.x)


def test_gauss_newton_product_is_that_of_the_explicit_matrix(small, generator):
    network, examples = small
    dense = _dense_gauss_newton(network, examples)
    for _ in range(3):
        v = torch.randn(len(dense), generator=generator, dtype=torch.float64)
        product = influence.gauss_newton_product(network, examples, v, loss=task.loss, batch_size=7)
        assert torch.allclose(product, dense @ v, atol=1e-12)


def test_step_solves_the_explicit_damped_system(small):
    network, examples = small
    forget, rows = examples.subset(torch.arange(6)), examples.subset(torch.arange(6, 24))
    options = influence.Options(damping=1e-2, iterations=500, residual=1e-10)
    solution = influence.step(network, forget, rows, retained=18, loss=task.loss, options=options)
    dense = _dense_gauss_newton(network, Examples(rows.x[rows.rows], rows.labels))
    gradient = objective.summed_gradient(network, forget)
    damped = dense + 1e-2 * torch.eye(len(dense), dtype=torch.float64)
    exact = torch.linalg.solve(damped, gradient / 18)
    assert torch.allclose(solution.x, exact, rtol=1e-6, atol=1e-9)
    assert solution.residual < 1e-10


def test_ridge_regression_lands_on_the_closed_form_retrain(generator):
    n, gone, ridge = 60, 9, 0.3
    x = torch.randn(n, 6, generator=generator, dtype=torch.float64)
    target = x @ torch.randn(6, generator=generator, dtype=torch.float64)
    target += torch.randn(n, generator=generator, dtype=torch.float64)
    # Rows are addressed by their number, which is what a label can carry.
    examples = Examples(x, torch.arange(n))

    def optimum(rows):
        # Every row brings its own share of the penalty: the sum over rows of (wx − t)²/2 + r|w|²/2.
        a = x[rows].T @ x[rows] + ridge * len(rows) * torch.eye(6, dtype=torch.float64)
        return torch.linalg.solve(a, x[rows].T @ target[rows])

    # The penalty r|w|²/2 of each row as six more outputs √r·w, so that J of the outputs is enough.
    class Ridge(Linear):
        def forward(self, rows):
            penalty = ridge**0.5 * self.weight.expand(len(rows), 6)
            return torch.cat([rows @ self.weight.T, penalty], dim=1)

    def loss(outputs, y):
        return 0.5 * (outputs[:, 0] - target[y]) ** 2 + 0.5 * (outputs[:, 1:] ** 2).sum(1)

    model = Ridge(optimum(torch.arange(n))[None])
    forget, retain = torch.arange(gone), torch.arange(gone, n)
    solution = influence.step(
        model,
        examples.subset(forget),
        examples.subset(retain),
        retained=len(retain),
        loss=loss,
        options=influence.Options(damping=0.0, iterations=100, residual=1e-13),
    )
    assert torch.allclose(model.weight[0] + solution.x, optimum(retain), atol=1e-10)
    assert not torch.allclose(model.weight[0], optimum(retain), atol=1e-3)


def test_conjugate_gradients_need_as_many_iterations_as_there_are_eigenvalues(generator):
    q, _ = torch.linalg.qr(torch.randn(30, 30, generator=generator, dtype=torch.float64))
    eigenvalues = torch.tensor([1.0, 3.0, 9.0], dtype=torch.float64).repeat(10)
    matrix = q @ eigenvalues.diag() @ q.T
    b = torch.randn(30, generator=generator, dtype=torch.float64)
    solution = influence.conjugate_gradients(lambda v: matrix @ v, b, iterations=50, residual=1e-10)
    assert solution.iterations == 3
    assert torch.allclose(matrix @ solution.x, b)


def test_calibrated_influence_raises_the_loss_to_its_target(digits_mlp):
    forget, retain, context = digits_mlp.given("records")
    update = influence.unlearn(
        digits_mlp.model,
        forget,
        retain,
        options=influence.Options(strength="calibrated", guard_rise=1.0),
        context=context,
        generator=torch.Generator().manual_seed(0),
    )
    assert update.notes["status"] == "reached"
    before = float(objective.losses(digits_mlp.model, forget).mean())
    after = float(objective.losses(update.model, forget).mean())
    gap = update.notes["target"] - before
    assert after - before == pytest.approx(gap, rel=0.05)


def test_gradient_of_zero_is_refused():
    # Two equal logits of weights that no input reaches.
    model = Linear(torch.zeros(2, 3))
    blank = Examples(torch.zeros(4, 3), torch.tensor([0, 1, 0, 1]))
    with pytest.raises(UnusableDirection, match="zero"):
        influence.step(
            copy.deepcopy(model),
            blank,
            dataclasses.replace(blank),
            retained=4,
            loss=task.loss,
            options=influence.Options(),
        )
