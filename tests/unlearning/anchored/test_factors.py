"""Factors of the Jacobian against its rows, on tables and on texts of different lengths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests import mislabelled
from tests.unlearning.anchored import small
from unlearning.anchored import columns, factors
from unlearning.anchored.factors import Unfactored
from unlearning.anchored.jacobian import Jacobian
from unlearning.core import objective
from unlearning.core.examples import Examples
from unlearning.curvature import estimation
from unlearning.curvature.kfac import Kfac

MEMORY = 2**30


def _curvature(model: nn.Module, examples: Examples) -> Kfac:
    return estimation.estimate(model, examples, generator=small.generator(), relative_damping=0.1)


def _text(folder: Path, name: str) -> tuple[nn.Module, Examples]:
    problem = mislabelled.problem(folder, name)
    model = problem.fresh(0).eval()
    generator = small.generator(1)
    for p in model.parameters():  # away from the zeros of a new layer norm and of low ranks
        nn.init.normal_(p, std=0.3, generator=generator)
    return model, problem.train.subset(torch.arange(7))


class TwoPrecisions(nn.Module):
    """The layer that comes first is the narrower one, or the last one is."""

    def __init__(self, narrow: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(5, 6).double(), nn.Linear(6, 4).double()
        self.get_submodule(narrow).float()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body(x.to(self.body.weight.dtype)).tanh()
        made: Tensor = self.head(hidden.to(self.head.weight.dtype))
        return made


NETWORKS = ["table", "body", "head", "transformer", "last_layers", "lora", "all"]


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[nn.Module, Examples]:
    if request.param == "table":
        return small.network().eval(), small.examples(7)
    if request.param in ("body", "head"):
        return TwoPrecisions(request.param).eval(), small.examples(7)
    return _text(tmp_path, request.param)


@pytest.mark.parametrize("curved", [True, False])
@pytest.mark.parametrize("piece", [2**25, 2**9])
def test_products_are_those_of_the_rows(
    network: tuple[nn.Module, Examples],
    curved: bool,
    piece: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(columns, "_PIECE", piece)
    model, examples = network
    assert factors.fit(model, examples)
    curvature = _curvature(model, examples) if curved else None
    found = factors.of(model, examples, curvature, batch_size=3, memory=MEMORY)
    j = torch.cat(list(Jacobian(model, examples, batch_size=7).rows(size=7))).double()
    p = j if curvature is None else torch.stack([curvature.solve(row) for row in j])
    alpha = torch.randn(len(examples), generator=small.generator(2), dtype=torch.float64)
    for ours, theirs in (
        (found.kernel(), j @ p.T),
        (found.product(alpha), (j @ p.T) @ alpha),
        (found.pulled(alpha), p.T @ alpha),
    ):
        atol = 1e-4 * float(theirs.abs().max())
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=atol)
    assert found.kernel_bytes <= max(
        piece, len(examples) * 8 * max(map(_width, model.parameters()))
    )


def _width(parameter: Tensor) -> int:
    return parameter.shape[-1] + 1


def test_padding_has_no_places(tmp_path: Path) -> None:
    model, examples = _text(tmp_path, "transformer")
    tokens = int((examples.x[examples.positions] != 0).sum())
    assert tokens < len(examples) * examples.x.shape[1]
    assert factors.of(model, examples, None, memory=MEMORY).places == tokens


class Twice(nn.Module):
    """A layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(5, 5), nn.Linear(5, 4)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.head(self.body(self.body(x).tanh()))
        return made


class Mixed(Twice):
    """Rows meet the first layer in another order."""

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.head(self.body(x.flip(0)).flip(0))
        return made


class Scaled(Twice):
    """A parameter that no layer owns."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.factor * self.head(self.body(x))
        return made


class Tied(Twice):
    """The first layer's weight is used outside of its call, too."""

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.head(self.body(x).tanh() @ self.body.weight)
        return made


class Narrowed(Twice):
    """The layers compute in half precision, whatever their weights have."""

    def __init__(self) -> None:
        super().__init__()
        self.float()

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            made: Tensor = self.head(self.body(x.float()))
        return made.float()


class Sparse(nn.Module):
    """The gradient of the embedding has no entries of ids that no row has."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Embedding(9, 5, sparse=True), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.head(self.body(x.long() % 9).sum(1))
        return made


@pytest.mark.parametrize("made", [Twice, Mixed, Scaled, Tied, Sparse])
def test_a_network_that_uses_its_layers_otherwise_has_no_factors(made: type[nn.Module]) -> None:
    assert not factors.fit(made().eval(), small.examples(7))


def test_layers_that_compute_in_half_precision_have_factors() -> None:
    """To as many digits as they compute with."""
    model, examples = Narrowed().eval(), small.examples(7)
    j = small.jacobian(model, examples).double()
    found = factors.of(model, examples, None, memory=MEMORY).kernel()
    torch.testing.assert_close(found, j @ j.T, rtol=0, atol=0.05 * float((j @ j.T).max()))


def test_a_convolution_has_no_factors() -> None:
    given: dict[str, Any] = {"memory": MEMORY}
    with pytest.raises(Unfactored):
        factors.of(small.convolution().eval(), small.examples(7, (1, 6, 6)), None, **given)


def test_factors_that_take_too_much_memory_are_given_up() -> None:
    model, examples = small.network().eval(), small.examples(50)
    needed = factors.of(model, examples, None, memory=MEMORY).bytes
    assert factors.of(model, examples, None, memory=needed).rows == 50
    with pytest.raises(Unfactored):
        factors.of(model, examples, None, memory=needed - 1)


def test_the_network_is_left_as_it_was() -> None:
    model, examples = small.network().eval(), small.examples(7)
    before = objective.flatten(model)
    factors.of(model, examples, None, memory=MEMORY)
    assert torch.equal(objective.flatten(model), before)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
