"""Rows of several tensors under consecutive numbers, without a copy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Joined:
    """The rows of ``parts``, (n_i, *shape) of one shape and dtype, numbered one after the other.

    They may be memory-mapped: only the rows that are asked for are read and copied. It has what
    ``Examples`` and those who read them need of a tensor.
    """

    def __init__(self, parts: Sequence[Tensor]) -> None:
        if len({(part.dtype, part.shape[1:]) for part in parts}) != 1:
            raise ValueError("the parts have rows of different shapes or dtypes")
        self._parts = list(parts)
        counts = torch.tensor([len(part) for part in parts])
        self._ends = counts.cumsum(0)
        self._starts = (self._ends - counts).tolist()

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of every row."""
        return self._parts[0].dtype

    @property
    def shape(self) -> torch.Size:
        """Return (n, *shape)."""
        return torch.Size((len(self), *self._parts[0].shape[1:]))

    @property
    def ndim(self) -> int:
        """Return the number of axes, that of the rows included."""
        return self._parts[0].ndim

    def dim(self) -> int:
        """Return ``ndim``."""
        return self.ndim

    def element_size(self) -> int:
        """Return the bytes of one value."""
        return self._parts[0].element_size()

    def __getitem__(self, where: Tensor | slice) -> Tensor:
        """Return copies of the rows ``where``: positions (m,) int64 from 0, or a slice."""
        if isinstance(where, slice):
            where = torch.arange(len(self))[where]
        found = torch.empty((len(where), *self.shape[1:]), dtype=self.dtype)
        owners = torch.bucketize(where.contiguous(), self._ends, right=True)
        for owner in owners.bincount().nonzero()[:, 0].tolist():
            if owner == len(self._parts):
                raise IndexError(f"row {int(where.max())} does not exist: there are {len(self)}")
            here = (owners == owner).nonzero()[:, 0]
            found[here] = self._parts[owner][where[here] - self._starts[owner]]
        return found
