"""Check that a network accepts every value of its dataset, before anything trains on it.

Networks that use a value as an index (an embedding, a one-hot code) fail on indices beyond their
table. Each column's smallest and largest value stand for the values between.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from unlearning.core import objective
from unlearning.core.joined import Joined
from unlearning.errors import WrongOptions

_BLOCK_BYTES = 16 << 20


def check(
    network: nn.Module, rows: Tensor | Joined, allowed: Tensor, names: Sequence[str] | None
) -> None:
    """Raise ``WrongOptions`` that names row and column if the network does not accept a value.

    ``rows`` (n, columns) may be memory-mapped; ``allowed`` (m,) int64 are those that may be read.
    The network is on the CPU, in evaluation mode: a CUDA device would not survive a wrong index.
    Errors that no single value causes are raised unchanged.
    """
    if rows.dim() != 2 or not len(allowed):
        return
    low, high = _extremes(rows, allowed)
    chosen = torch.unique(torch.cat([low, high]))
    for batch in torch.split(chosen, objective.BATCH):
        error = _error(network, rows[batch])
        if error is not None:
            raise _named(network, rows, chosen, batch, (low, high), names, error) from error


def _extremes(rows: Tensor | Joined, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each column the positions of rows with its smallest and its largest value."""
    low = allowed[:1].expand(rows.shape[1]).clone()
    high = low.clone()
    least = rows[low[:1]][0]
    most = least.clone()
    for block in _blocks(rows, allowed):
        values = rows[block]
        smallest, largest = values.min(0), values.max(0)
        lower, higher = smallest.values < least, largest.values > most
        low[lower] = block[smallest.indices[lower]]
        high[higher] = block[largest.indices[higher]]
        least = torch.minimum(least, smallest.values)
        most = torch.maximum(most, largest.values)
    return low, high


def _blocks(rows: Tensor | Joined, allowed: Tensor) -> Iterator[Tensor]:
    size = max(1, _BLOCK_BYTES // max(1, rows.shape[1] * rows.element_size()))
    yield from torch.split(allowed, size)


@torch.no_grad()
def _error(network: nn.Module, x: Tensor) -> Exception | None:
    try:
        network(x)
    except MemoryError:
        raise
    except Exception as error:  # a custom network may raise anything
        return error
    return None


def _named(
    network: nn.Module,
    rows: Tensor | Joined,
    chosen: Tensor,
    batch: Tensor,
    extremes: tuple[Tensor, Tensor],
    names: Sequence[str] | None,
    error: Exception,
) -> Exception:
    """Return the error with row and column, or unchanged when no single value causes it."""
    good = next((row for row in chosen if _error(network, rows[row[None]]) is None), None)
    bad = next((row for row in batch if _error(network, rows[row[None]]) is not None), None)
    if good is None or bad is None:
        return error
    for column in torch.nonzero(sum(where == bad for where in extremes))[:, 0].tolist():
        tried = rows[good[None]].clone()
        tried[0, column] = rows[bad[None]][0, column]
        found = _error(network, tried)
        if found is not None:
            name = f"column {names[column]!r}" if names else f"feature {column}"
            return WrongOptions(
                f"row {int(bad)}, {name} (rows and features are counted from 0): the network does "
                f"not take this value ({found}); make the architecture's table for it larger, or "
                "correct the row and add the dataset again"
            )
    return error
