"""The change of the weights by each training batch, kept for methods that undo it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unlearning.errors import WrongOptions


@dataclass
class UpdateLog:
    """One entry per training batch: the rows it held and the weight difference it made.

    ``rows[i]`` (b,) int64 are positions in the storage (``Examples.positions``) and ``deltas[i]``
    (p,) float32 the change of the step parameters. When the next entry would exceed
    ``max_bytes`` the log ends there and ``complete`` is False: a part of a row's updates is not
    enough to undo them.
    """

    max_bytes: int
    rows: list[Tensor] = field(default_factory=list)
    deltas: list[Tensor] = field(default_factory=list)
    complete: bool = True
    #: Bytes held so far; kept up to date, since recounting for every batch would be quadratic.
    size_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        self.size_bytes = _bytes(*self.rows, *self.deltas)

    def __len__(self) -> int:
        return len(self.rows)

    def append(self, rows: Tensor, delta: Tensor) -> None:
        """Add a batch, unless the log has reached its size limit."""
        rows, delta = rows.detach().cpu().clone(), delta.detach().float().cpu()
        needed = _bytes(rows, delta)
        if not self.complete or self.size_bytes + needed > self.max_bytes:
            self.complete = False
            return
        self.rows.append(rows)
        self.deltas.append(delta)
        self.size_bytes += needed

    def take(self, earlier: UpdateLog) -> None:
        """Take over the entries of an earlier log of the same training."""
        self.rows, self.deltas = list(earlier.rows), list(earlier.deltas)
        self.complete = earlier.complete
        self.size_bytes = earlier.size_bytes

    def keep(self, count: int) -> None:
        """Drop the entries after the first ``count``: training returned to earlier weights."""
        if len(self) >= count:
            # Entries that did not fit came after the weights that are kept.
            self.complete = True
        self.size_bytes -= _bytes(*self.rows[count:], *self.deltas[count:])
        del self.rows[count:], self.deltas[count:]

    def without(self, positions: Tensor) -> UpdateLog:
        """Return the log of the batches that held none of the rows at ``positions`` (m,) int64."""
        kept = [i for i, rows in enumerate(self.rows) if not torch.isin(rows, positions).any()]
        return UpdateLog(
            self.max_bytes,
            [self.rows[i] for i in kept],
            [self.deltas[i] for i in kept],
            self.complete,
        )

    def to_tensors(self) -> dict[str, Tensor]:
        """Return tensors for a safetensors file; :func:`from_tensors` reads them."""
        sizes = torch.tensor([len(r) for r in self.rows], dtype=torch.int64)
        return {
            "max_bytes": torch.tensor(self.max_bytes, dtype=torch.int64),
            "complete": torch.tensor(self.complete),
            "sizes": sizes,
            "rows": torch.cat(self.rows) if self.rows else torch.zeros(0, dtype=torch.int64),
            "deltas": torch.stack(self.deltas) if self.deltas else torch.zeros(0, 0),
        }


def _bytes(*tensors: Tensor) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def from_tensors(tensors: Mapping[str, Tensor]) -> UpdateLog:
    """Return the log that :meth:`UpdateLog.to_tensors` wrote."""
    if missing := {"max_bytes", "complete", "sizes", "rows", "deltas"} - set(tensors):
        raise WrongOptions(f"not an update log: {', '.join(sorted(missing))} missing")
    return UpdateLog(
        max_bytes=int(tensors["max_bytes"]),
        rows=list(torch.split(tensors["rows"], tensors["sizes"].tolist())),
        deltas=list(tensors["deltas"]),
        complete=bool(tensors["complete"]),
    )
