"""Kronecker-factored curvature (K-FAC) with its eigenbasis, so that a solve is a few products.

For a layer with inputs a (bias: a with a one appended) and loss gradients g at its outputs, the
Gauss-Newton block is taken as E[Σ g gᵀ] ⊗ E[a aᵀ] (Martens & Grosse 2015; for convolutions over
patches, Grosse & Martens 2016; for sequences over the places that a gradient reaches, which padding
is not). It is exact for one linear layer when a and g are independent, for instance on a single
example.

A factor above ``estimation.LARGEST_FACTOR`` rows is replaced by its diagonal, because its
eigenvectors would take minutes and hundreds of megabytes: the layer's block is then the product of
a full and a diagonal factor (or of two), exact if the entries of the large side are uncorrelated.

A grouped convolution has one independent block per group. Every other parameter of a step
(embeddings, layer-norm affine, weights used by two layers or outside a Linear or Conv2d call) gets
the diagonal of the same Gauss-Newton matrix instead; no parameter is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Block:
    """One layer's factors E[a aᵀ] and E[Σ g gᵀ] as eigenvalues and eigenvectors, per group.

    ``weight`` and ``bias`` are where the layer's parameters start in the flat vector; ``bias`` is
    -1 if there is none. Shapes: input_values (groups, i), input_vectors (groups, i, i),
    output_values (groups, o), output_vectors (groups, o, o), i counting the bias. Vectors of shape
    (groups, 0, 0) mean the identity: the factor is diagonal.
    """

    weight: int
    bias: int
    input_values: Tensor
    input_vectors: Tensor
    output_values: Tensor
    output_vectors: Tensor


@dataclass(frozen=True)
class Kfac:
    """(K + λI)⁻¹ over the step parameters, K block-diagonal; λ is ``damping``, absolute.

    ``diagonal`` (m,) belongs to the parameters at ``positions`` (m,) that no block covers.
    """

    damping: float
    blocks: tuple[Block, ...]
    positions: Tensor
    diagonal: Tensor

    def solve(self, vector: Tensor) -> Tensor:
        """Return (K + λI)⁻¹ ``vector`` (p,), exact: λ is added to each product of eigenvalues."""
        solved = torch.empty_like(vector)
        for block in self.blocks:
            _solve_block(block, vector, solved, self.damping)
        here = vector[self.positions]
        solved[self.positions] = here / (self.diagonal.to(here.dtype) + self.damping)
        return solved

    def whiten(self, rows: Tensor) -> Tensor:
        """Return W = J·U(Λ + λ)^(−1/2) of rows J (n, p), with K = UΛUᵀ: W·Wᵀ = J(K + λI)⁻¹Jᵀ."""
        white = torch.empty_like(rows)
        for block in self.blocks:
            u, v = _bases(block)
            inside = _turn(u.mT, _gather(block, rows), v) * _scale(block, self.damping)
            _scatter(block, inside, white)
        white[:, self.positions] = rows[:, self.positions] * self.diagonal_scale(rows.dtype)
        return white

    def unwhiten(self, vector: Tensor) -> Tensor:
        """Return U(Λ + λ)^(−1/2)·``vector`` (p,); applied to Wᵀα it gives (K + λI)⁻¹Jᵀα."""
        found = torch.empty_like(vector)[None]
        for block in self.blocks:
            u, v = _bases(block)
            inside = _gather(block, vector[None]) * _scale(block, self.damping)
            _scatter(block, _turn(u, inside, v.mT), found)
        here = vector[self.positions]
        found[0, self.positions] = here * self.diagonal_scale(here.dtype)
        return found[0]

    def diagonal_scale(self, dtype: torch.dtype) -> Tensor:
        """Return (Λ + λ)^(−1/2) at ``positions``, (m,)."""
        return (self.diagonal.to(dtype) + self.damping).rsqrt()

    def to_tensors(self) -> dict[str, Tensor]:
        """Return tensors for a safetensors file; :func:`from_tensors` reads them."""
        tensors = {
            "damping": torch.tensor(self.damping, dtype=torch.float64),
            "positions": self.positions,
            "diagonal": self.diagonal,
            "starts": torch.tensor([[b.weight, b.bias] for b in self.blocks]).reshape(-1, 2),
        }
        for i, block in enumerate(self.blocks):
            for name in _FACTORS:
                tensors[f"{i}.{name}"] = getattr(block, name)
        return tensors


_FACTORS = ("input_values", "input_vectors", "output_values", "output_vectors")


def from_tensors(tensors: Mapping[str, Tensor]) -> Kfac:
    """Return the curvature that :meth:`Kfac.to_tensors` wrote."""
    starts = tensors["starts"].tolist()
    return Kfac(
        damping=float(tensors["damping"]),
        blocks=tuple(
            Block(weight, bias, *(tensors[f"{i}.{name}"] for name in _FACTORS))
            for i, (weight, bias) in enumerate(starts)
        ),
        positions=tensors["positions"],
        diagonal=tensors["diagonal"],
    )


def _solve_block(block: Block, vector: Tensor, solved: Tensor, damping: float) -> None:
    u, v = _bases(block)
    products = torch.einsum("go,gi->goi", block.output_values, block.input_values)
    # In the factors' own precision: converting them to float64 costs more than the products.
    inside = _turn(u.mT, _gather(block, vector[None])[0], v) / (products + damping)
    _scatter(block, _turn(u, inside, v.mT)[None], solved[None])


def _bases(block: Block) -> tuple[Tensor, Tensor]:
    return block.output_vectors, block.input_vectors


def _scale(block: Block, damping: float) -> Tensor:
    """Return (products of eigenvalues + λ)^(−1/2), (groups, o, i)."""
    products = torch.einsum("go,gi->goi", block.output_values, block.input_values)
    return (products + damping).rsqrt()


def _turn(left: Tensor, matrices: Tensor, right: Tensor) -> Tensor:
    """Return left·matrix·right of matrices (n, groups, o, i), in the factors' precision.

    A side without elements is the identity.
    """
    matrices = matrices.to(left.dtype)
    if left.numel():
        matrices = left @ matrices
    return matrices @ right if right.numel() else matrices


def _places(block: Block) -> tuple[slice, slice | None, int]:
    """Return where weights and biases lie in the flat vector, and the fan-in without bias."""
    groups, o = block.output_values.shape
    fan_in = block.input_values.shape[1] - (block.bias >= 0)
    weights = slice(block.weight, block.weight + groups * o * fan_in)
    return weights, slice(block.bias, block.bias + groups * o) if block.bias >= 0 else None, fan_in


def _gather(block: Block, rows: Tensor) -> Tensor:
    """Return the block's part of ``rows`` (n, p) as matrices (n, groups, o, i)."""
    groups, o = block.output_values.shape
    weights, biases, fan_in = _places(block)
    matrices = rows[:, weights].reshape(-1, groups, o, fan_in)
    if biases is None:
        return matrices
    return torch.cat([matrices, rows[:, biases].reshape(-1, groups, o, 1)], 3)


def _scatter(block: Block, matrices: Tensor, rows: Tensor) -> None:
    """Write matrices (n, groups, o, i) to the block's part of ``rows`` (n, p)."""
    weights, biases, fan_in = _places(block)
    rows[:, weights] = matrices[..., :fan_in].reshape(len(rows), -1).to(rows.dtype)
    if biases is not None:
        rows[:, biases] = matrices[..., fan_in].reshape(len(rows), -1).to(rows.dtype)
