"""The margins' Jacobian as what enters each layer and what comes back at its outputs.

The gradient of a row's margin in the weight of a linear layer is Σ_t g_t a_tᵀ over the row's places
t (tokens), with the inputs a_t and the margin's gradients g_t at the outputs: one forward and one
backward pass give them for all rows of a mini-batch (Goodfellow, Efficient Per-Example Gradient
Computations, arXiv 1510.01799). Turned into the eigenbasis of the layer's curvature once, they give
every product with W = J·U(Λ + λ)^(−1/2), W·Wᵀ = J(K + λI)⁻¹Jᵀ, without another pass through the
network and without the rows of W. An embedding is a linear layer whose inputs are unit vectors; the
parameters of a layer norm are few, and their part of J is kept as it is.

Places that no gradient reaches, such as padding, are left out. A network that is not made of such
layers, or calls one of them twice, has no factors: ``Unfactored``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from unlearning.anchored import columns
from unlearning.core import objective, task
from unlearning.core.examples import Examples
from unlearning.curvature.kfac import Block, Kfac

#: Rows on which the factors are compared with the gradient, and the relative difference allowed.
_COMPARED, _ALIKE = 8, 1e-3
#: Times that a layer's inputs and gradients exist at once: recorded, and turned.
_COPIES = 2
#: Products that a kernel saves: below so many rows for each place of a row it is cheaper.
_SAVED = 12


class Unfactored(Exception):
    """Raised if a network's Jacobian has no factors, or if they take too much memory."""


@dataclass(frozen=True)
class Factors:
    """The factors of n ``rows`` and p = ``size`` parameters; products have these' widest precision.

    ``places``: those that all rows have at the layer with the most. ``bytes``: what the factors
    took at most while they were made.
    """

    rows: int
    size: int
    places: int
    bytes: int
    parts: tuple[columns.Part, ...]
    curvature: Kfac | None
    device: torch.device
    dtype: torch.dtype

    @property
    def kernel_rows(self) -> int:
        """Return up to how many rows the kernel is cheaper than products."""
        return _SAVED * self.places // max(1, self.rows)

    @property
    def kernel_bytes(self) -> int:
        """Return the bytes of W that :meth:`kernel` forms at once, at most."""
        return max([part.piece for part in self.parts], default=0)

    def kernel(self) -> Tensor:
        """Return J(K + λI)⁻¹Jᵀ, (n, n) float64."""
        found = torch.zeros(self.rows, self.rows, dtype=self.dtype, device=self.device)
        for part in self.parts:
            part.add_kernel(found)
        return found.double()

    def product(self, alpha: Tensor) -> Tensor:
        """Return J(K + λI)⁻¹Jᵀ·``alpha`` (n,) float64 on the CPU."""
        pulled = self._pulled(alpha)
        found = torch.zeros(self.rows, dtype=self.dtype, device=self.device)
        for part in self.parts:
            found += part.push(pulled)
        return found.double().cpu()

    def pulled(self, alpha: Tensor) -> Tensor:
        """Return (K + λI)⁻¹Jᵀ·``alpha`` (p,) float64."""
        found = self._pulled(alpha).double()
        return found if self.curvature is None else self.curvature.unwhiten(found)

    def _pulled(self, alpha: Tensor) -> Tensor:
        found = torch.zeros(self.size, dtype=self.dtype, device=self.device)
        for part in self.parts:
            part.pull(alpha.to(found), found)
        return found


def of(
    network: nn.Module,
    examples: Examples,
    curvature: Kfac | None,
    *,
    batch_size: int = objective.BATCH,
    memory: int,
) -> Factors:
    """Return the factors of the margins' Jacobian at the network's weights, in evaluation mode.

    Raise ``Unfactored`` if there are none, or if they take more than ``memory`` bytes.
    """
    layers = _layers(network)
    parameters = objective.step_parameters(network)
    first = next(iter(parameters.values()))
    done, bytes_ = 0, 0
    with _recording(layers) as recorded:
        for x, y in examples.batches(batch_size, device=first.device):
            recorded.rows = len(y)
            with torch.enable_grad():
                phi = task.margin(network(x), y)
                torch.autograd.grad(phi.sum(), list(parameters.values()), allow_unused=True)
            for layer in layers:
                bytes_ += layer.settle(done)
            done += len(y)
            if _COPIES * bytes_ > memory:
                raise Unfactored
    starts, size = {}, 0
    for p in parameters.values():
        starts[id(p)], size = size, size + p.numel()
    # Layers may have other precisions than each other, or than what they return (autocast).
    dtype = reduce(torch.promote_types, (p.dtype for p in parameters.values()))
    scale = _Scale(curvature, starts, torch.ones(size, dtype=dtype, device=first.device))
    parts = [part for layer in layers if layer.pieces for part in _parts(layer, done, scale)]
    places = max([layer.places for layer in layers], default=0)
    return Factors(
        done, size, places, _COPIES * bytes_, tuple(parts), curvature, first.device, dtype
    )


def fit(network: nn.Module, examples: Examples) -> bool:
    """Return whether the Jacobian of the network has factors, tried on the first rows.

    A weighted sum of the factors is compared with the gradient of the weighted margins: a layer
    that is used otherwise than it seems gives another one.
    """
    few = examples.subset(torch.arange(min(len(examples), _COMPARED)))
    alpha = torch.linspace(1, 2, len(few), dtype=torch.float64)
    try:
        found = of(network, few, None, memory=2**62).pulled(alpha)
        known = _gradient(network, few, alpha)
    except torch.OutOfMemoryError:
        raise
    except (Unfactored, RuntimeError):
        return False
    return float((found - known).norm()) <= _ALIKE * float(known.norm())


def _gradient(network: nn.Module, few: Examples, alpha: Tensor) -> Tensor:
    """Return Jᵀ·``alpha`` (p,) float64 by its definition."""
    parameters = list(objective.step_parameters(network).values())
    ((x, y),) = few.batches(len(few), device=parameters[0].device)
    with torch.enable_grad():
        phi = task.margin(network(x), y)
        grads = torch.autograd.grad(
            phi, parameters, grad_outputs=alpha.to(phi), allow_unused=True, materialize_grads=True
        )
    return torch.cat([g.reshape(-1) for g in grads]).double()


@dataclass
class _Piece:
    """What one mini-batch left at a layer: rows (t,), inputs and gradients (t, ·) at t places."""

    row: Tensor
    inputs: Tensor
    signals: Tensor


@dataclass
class _Layer:
    """A layer with parameters of its own, and what its calls have left."""

    module: nn.Module
    inputs: Tensor | None = None
    signals: Tensor | None = None
    pieces: list[_Piece] = field(default_factory=list)
    places: int = 0

    def settle(self, before: int) -> int:
        """Keep what a mini-batch left, whose first row has the number ``before``; return bytes."""
        if self.inputs is None or self.signals is None:
            self.inputs = self.signals = None
            return 0
        reached = self.signals.ne(0).any(-1)
        row = reached.nonzero()[:, 0] + before
        piece = _Piece(row, self.inputs[reached], self.signals[reached])
        self.pieces.append(piece)
        self.places += len(row)
        self.inputs = self.signals = None
        return sum(t.numel() * t.element_size() for t in (piece.inputs, piece.signals))


def _layers(network: nn.Module) -> list[_Layer]:
    """Return the layers that own the step parameters; raise ``Unfactored`` if others own some."""
    wanted = {id(p) for p in objective.step_parameters(network).values()}
    layers, owned = [], 0
    for module in network.modules():
        here = [p for p in module.parameters(recurse=False) if id(p) in wanted]
        if not here:
            continue
        if type(module) not in (nn.Linear, nn.Embedding, nn.LayerNorm):
            raise Unfactored
        owned += len(here)
        layers.append(_Layer(module))
    if owned != len(wanted):
        raise Unfactored
    return layers


@dataclass
class _Recorded:
    """Number of rows of the mini-batch under way."""

    rows: int = 0


@contextmanager
def _recording(layers: list[_Layer]) -> Iterator[_Recorded]:
    recorded = _Recorded()

    def attach(layer: _Layer) -> Callable[..., Any]:
        def after(
            module: nn.Module, given: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor
        ) -> Tensor | None:
            if not output.requires_grad:
                return None
            x = (given[0] if given else named["input"]).detach()
            replaced = None
            if isinstance(module, nn.Embedding) and x.shape[:1] == (1,) and x.dim() > 1:
                # One row of places for all rows: they get an output each, to have a gradient each.
                x = x.expand(recorded.rows, *x.shape[1:])
                output = replaced = output.expand(recorded.rows, *output.shape[1:])
            if layer.inputs is not None or len(x) != recorded.rows:
                raise Unfactored
            layer.inputs = _by_place(module, x)

            # A hook set before an in-place operation still receives the gradient at this output.
            def hear(grad: Tensor) -> None:
                layer.signals = _by_place(module, grad.detach(), gradient=True)

            output.register_hook(hear)  # type: ignore[no-untyped-call]  # torch has no types here
            return replaced

        return after

    handles = [
        layer.module.register_forward_hook(attach(layer), with_kwargs=True) for layer in layers
    ]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


def _by_place(module: nn.Module, values: Tensor, *, gradient: bool = False) -> Tensor:
    """Return inputs or gradients by row and place, (n, places, ·); ids as (n, places)."""
    count = len(values)
    if isinstance(module, nn.Embedding):
        if not gradient:
            return values.reshape(count, -1)
        return values.reshape(count, -1, values.shape[-1])
    if isinstance(module, nn.LayerNorm):
        width = module.normalized_shape
        if not gradient:
            values = functional.layer_norm(values, width, None, None, module.eps)
        return values.reshape(count, -1, *width).flatten(2)
    return values.reshape(count, -1, values.shape[-1])


class _Scale:
    """(Λ + λ)^(−1/2) of each parameter, and where a layer's parameters are."""

    def __init__(self, curvature: Kfac | None, starts: dict[int, int], ones: Tensor) -> None:
        self.starts, self.damping = starts, 0.0
        self.blocks: dict[int, Block] = {}
        self.flat = ones
        if curvature is not None:
            self.damping = curvature.damping
            self.blocks = {block.weight: block for block in curvature.blocks}
            self.flat[curvature.positions] = curvature.diagonal_scale(ones.dtype)

    def place(self, parameter: Tensor | None) -> slice | None:
        """Return where a parameter lies in the flat vector; None if no step moves it."""
        start = None if parameter is None else self.starts.get(id(parameter))
        if parameter is None or start is None:
            return None
        return slice(start, start + parameter.numel())


def _parts(layer: _Layer, rows: int, scale: _Scale) -> Iterator[columns.Part]:
    row, inputs, signals = (
        torch.cat([getattr(piece, name) for piece in layer.pieces])
        for name in ("row", "inputs", "signals")
    )
    layer.pieces.clear()
    signals = signals.to(scale.flat)
    if inputs.is_floating_point():
        inputs = inputs.to(scale.flat)
    module: Any = layer.module
    weight, bias = scale.place(module.weight), scale.place(getattr(module, "bias", None))
    if isinstance(module, nn.Embedding):
        if module.padding_idx is not None:
            signals = signals * inputs.ne(module.padding_idx)[:, None]
        assert weight is not None
        yield columns.Embedding(
            row, rows, inputs, signals, scale.flat[weight].view_as(module.weight), weight
        )
    elif isinstance(module, nn.LayerNorm):
        for where, values in ((weight, signals * inputs), (bias, signals)):
            if where is not None:
                yield columns.dense(row, rows, values, scale.flat, where)
    else:
        block = None if weight is None else scale.blocks.get(weight.start)
        if bias is not None and (block is None or block.bias < 0):
            yield columns.dense(row, rows, signals, scale.flat, bias)
        if block is not None and weight is not None:
            yield _whitened(block, row, rows, inputs, signals, scale, weight, bias)
        elif weight is not None:
            own = scale.flat[weight].view_as(module.weight)
            yield columns.Linear(row, rows, inputs, signals, own, weight, None)


def _whitened(
    block: Block,
    row: Tensor,
    rows: int,
    inputs: Tensor,
    signals: Tensor,
    scale: _Scale,
    weight: slice,
    bias: slice | None,
) -> columns.Linear:
    """Return the part of a layer that has a curvature block, in the block's eigenbasis."""
    if block.bias >= 0:
        inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], 1)
    u, v = block.output_vectors[0].to(inputs), block.input_vectors[0].to(inputs)
    values = block.output_values[0][:, None] * block.input_values[0] + scale.damping
    return columns.Linear(
        row,
        rows,
        inputs @ v if v.numel() else inputs,
        signals @ u if u.numel() else signals,
        values.rsqrt().to(inputs),
        weight,
        bias if block.bias >= 0 else None,
    )
