"""Columns of W = J·U(Λ + λ)^(−1/2) by layer, from what enters a layer and what comes back.

See ``factors``. Rows are numbered by ``row`` (t,) int64, ascending; each has any number of places.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

#: Bytes of a layer's part of W that exist at once while the kernel is summed.
_PIECE = 32 * 2**20


class Part(Protocol):
    """Columns of W: those of one layer's parameters."""

    @property
    def piece(self) -> int:
        """Return the bytes of this part of W that ``add_kernel`` forms at once."""

    def add_kernel(self, kernel: Tensor) -> None:
        """Add this part of W·Wᵀ to ``kernel`` (n, n)."""

    def pull(self, alpha: Tensor, into: Tensor) -> None:
        """Write this part of Wᵀ·``alpha`` (n,) into ``into`` (p,)."""

    def push(self, vector: Tensor) -> Tensor:
        """Return this part of W·``vector`` (n,), of ``vector`` (p,)."""


@dataclass(frozen=True)
class Linear:
    """Rows Σ_t g_t a_tᵀ ∘ ``scale`` (o, i); the last column is the bias, if there is one."""

    row: Tensor
    rows: int
    inputs: Tensor
    signals: Tensor
    scale: Tensor
    weight: slice
    bias: slice | None

    @property
    def piece(self) -> int:
        """Return the bytes that ``add_kernel`` forms at once."""
        return self._size * self.rows * self.scale.shape[1] * self.scale.element_size()

    @property
    def _size(self) -> int:
        """Return how many rows of the weight are in a piece."""
        outputs, inputs = self.scale.shape
        return max(1, min(outputs, _PIECE // (self.rows * inputs * self.scale.element_size())))

    def add_kernel(self, kernel: Tensor) -> None:
        """Add this part of W·Wᵀ to ``kernel`` (n, n)."""
        counts = torch.bincount(self.row, minlength=self.rows).tolist()
        inputs = torch.split(self.inputs, counts)
        # One buffer for all pieces: new memory costs as much as the product.
        buffer = self.scale.new_empty(self.rows * self._size * self.scale.shape[1])
        for start in range(0, len(self.scale), self._size):
            scale = self.scale[start : start + self._size]
            signals = torch.split(self.signals[:, start : start + self._size], counts)
            white = buffer[: self.rows * scale.numel()].view(self.rows, *scale.shape)
            for one, g, a in zip(white, signals, inputs, strict=True):
                torch.mm(g.T, a, out=one)
            flat = white.mul_(scale).view(self.rows, -1)
            kernel.addmm_(flat, flat.T)

    def pull(self, alpha: Tensor, into: Tensor) -> None:
        """Write this part of Wᵀ·``alpha`` (n,) into ``into`` (p,)."""
        found = ((alpha[self.row][:, None] * self.signals).T @ self.inputs).mul_(self.scale)
        if self.bias is not None:
            into[self.bias], found = found[:, -1], found[:, :-1]
        into[self.weight] = found.reshape(-1)

    def push(self, vector: Tensor) -> Tensor:
        """Return this part of W·``vector`` (n,), of ``vector`` (p,)."""
        matrix = vector[self.weight].view(len(self.scale), -1)
        if self.bias is not None:
            matrix = torch.cat([matrix, vector[self.bias][:, None]], 1)
        at_places = ((self.inputs @ (matrix * self.scale).T) * self.signals).sum(1)
        return at_places.new_zeros(self.rows).index_add_(0, self.row, at_places)


class Embedding:
    """Rows Σ_t e(id_t) g_tᵀ ∘ ``scale`` (ids, w), of the ids that some row has."""

    def __init__(
        self, row: Tensor, rows: int, ids: Tensor, signals: Tensor, scale: Tensor, weight: slice
    ) -> None:
        self.row, self.rows, self.weight, self.shape = row, rows, weight, scale.shape
        self.used, self.ids = torch.unique(ids, return_inverse=True)
        self.signals = signals * scale[self.used][self.ids]

    @property
    def piece(self) -> int:
        """Return the bytes that ``add_kernel`` forms at once."""
        return self._size * self.rows * self.shape[1] * self.signals.element_size()

    @property
    def _size(self) -> int:
        """Return how many ids are in a piece."""
        row = self.rows * self.shape[1] * self.signals.element_size()
        return max(1, min(len(self.used), _PIECE // row))

    def add_kernel(self, kernel: Tensor) -> None:
        """Add this part of W·Wᵀ to ``kernel`` (n, n)."""
        width = self.shape[1]
        for start in range(0, len(self.used), self._size):
            count = min(self._size, len(self.used) - start)
            here = (self.ids >= start) & (self.ids < start + count)
            white = self.signals.new_zeros(self.rows * count, width)
            white.index_add_(0, self.row[here] * count + self.ids[here] - start, self.signals[here])
            flat = white.view(self.rows, -1)
            kernel.addmm_(flat, flat.T)

    def pull(self, alpha: Tensor, into: Tensor) -> None:
        """Write this part of Wᵀ·``alpha`` (n,) into ``into`` (p,)."""
        found = self.signals.new_zeros(len(self.used), self.shape[1])
        found.index_add_(0, self.ids, alpha[self.row][:, None] * self.signals)
        into[self.weight].view(self.shape)[self.used] = found

    def push(self, vector: Tensor) -> Tensor:
        """Return this part of W·``vector`` (n,), of ``vector`` (p,)."""
        matrix = vector[self.weight].view(self.shape)[self.used]
        at_places = (matrix[self.ids] * self.signals).sum(1)
        return at_places.new_zeros(self.rows).index_add_(0, self.row, at_places)


@dataclass(frozen=True)
class Dense:
    """Rows of W (n, k) as they are."""

    white: Tensor
    where: slice

    @property
    def piece(self) -> int:
        """Return the bytes that ``add_kernel`` forms at once."""
        return 0  # it is formed already

    def add_kernel(self, kernel: Tensor) -> None:
        """Add this part of W·Wᵀ to ``kernel`` (n, n)."""
        kernel.addmm_(self.white, self.white.T)

    def pull(self, alpha: Tensor, into: Tensor) -> None:
        """Write this part of Wᵀ·``alpha`` (n,) into ``into`` (p,)."""
        into[self.where] = alpha @ self.white

    def push(self, vector: Tensor) -> Tensor:
        """Return this part of W·``vector`` (n,), of ``vector`` (p,)."""
        return self.white @ vector[self.where]


def dense(row: Tensor, rows: int, values: Tensor, scale: Tensor, where: slice) -> Dense:
    """Sum values (t, k) by row."""
    summed = values.new_zeros(rows, values.shape[1]).index_add_(0, row, values)
    return Dense(summed * scale[where], where)
