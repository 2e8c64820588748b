"""Labelled examples, read in mini-batches and moved to the device as they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from unlearning.core.joined import Joined


@dataclass(frozen=True)
class Examples:
    """``x`` (n, *shape) in its stored dtype (uint8, float32 or int32) and labels ``y`` (n,) int64.

    The tensors may be memory-mapped: only the rows of a mini-batch are read and copied.
    ``rows``, when given, are the positions in ``x`` and ``y`` that belong to this set, so that a
    subset costs no copy.
    """

    x: Tensor | Joined
    y: Tensor
    rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.y) if self.rows is None else len(self.rows)

    @property
    def labels(self) -> Tensor:
        """Return the labels of this set, (n,) int64."""
        return self.y if self.rows is None else self.y[self.rows]

    @property
    def positions(self) -> Tensor:
        """Return the positions of this set's examples in ``x`` and ``y``, (n,) int64."""
        return torch.arange(len(self.y)) if self.rows is None else self.rows

    def subset(self, positions: Tensor) -> Examples:
        """Return the examples at ``positions`` (m,) int64, counted within this set."""
        return Examples(self.x, self.y, positions if self.rows is None else self.rows[positions])

    def sample(self, count: int, *, generator: torch.Generator) -> Examples:
        """Draw at most ``count`` examples without replacement."""
        if count >= len(self):
            return self
        return self.subset(torch.randperm(len(self), generator=generator)[:count])

    def whole(self, *, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Return all rows as one mini-batch (x, y) on ``device``; there may be none."""
        where = self.positions
        return (
            self.x[where].to(device, non_blocking=True),
            self.y[where].to(device, non_blocking=True),
        )

    def batches(
        self,
        size: int,
        *,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield mini-batches (x, y) on ``device``; shuffled with ``generator`` when one is given.

        They are cut by :func:`pieces`: no row is dropped, and no batch has a single row.
        """
        order = None if generator is None else torch.randperm(len(self), generator=generator)
        for here in pieces(len(self), size):
            if order is not None:
                where = order[here] if self.rows is None else self.rows[order[here]]
                x, y = self.x[where], self.y[where]
            elif self.rows is not None:
                x, y = self.x[self.rows[here]], self.y[self.rows[here]]
            else:
                x, y = self.x[here], self.y[here]
            yield x.to(device, non_blocking=True), y.to(device, non_blocking=True)


def pieces(count: int, size: int) -> list[slice]:
    """Cut ``count`` rows into mini-batches of ``size``; a single last row joins the batch before.

    One row has no variance, so batch normalisation refuses a batch of one in train mode. Batches of
    one are only made if ``size`` is 1 or there is a single row.
    """
    if not count:
        return []
    starts = list(range(0, count, size))
    if size > 1 and len(starts) > 1 and count - starts[-1] == 1:
        del starts[-1]
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], count], strict=True)]


def concatenate(first: Examples, second: Examples) -> Examples:
    """Concatenate two sets; if they share their storage, only positions are concatenated."""
    if first.x is second.x and first.y is second.y:
        ours = first.rows if first.rows is not None else torch.arange(len(first))
        theirs = second.rows if second.rows is not None else torch.arange(len(second))
        return Examples(first.x, first.y, torch.cat([ours, theirs]))
    x = [e.x[:] if e.rows is None else e.x[e.rows] for e in (first, second)]
    return Examples(torch.cat(x), torch.cat([first.labels, second.labels]))
