"""Small networks and rows, and their Jacobian by its definition."""

import torch
from torch import nn

from unlearning.core import objective
from unlearning.core.examples import Examples


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def examples(n, shape=(5,), classes=4, dtype=torch.float64, seed=0):
    drawn = generator(seed)
    x = torch.randn(n, *shape, generator=drawn, dtype=dtype)
    return Examples(x, torch.randint(classes, (n,), generator=drawn))


def network(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.LayerNorm(6), nn.Linear(6, 4)).to(dtype)


def convolution():
    torch.manual_seed(1)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4)]
    return nn.Sequential(*layers).double()


def jacobian(model, given):
    """J (n, p), a row at a time by plain autograd."""
    parameters = list(objective.step_parameters(model).values())
    rows = []
    for i in range(len(given)):
        z = model.eval()(given.x[i : i + 1])[0]
        y = int(given.labels[i])
        others = torch.stack([v for c, v in enumerate(z) if c != y])
        phi = z[y] - others.exp().sum().log()
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(phi, parameters)]))
    return torch.stack(rows)
