"""Draw the splits of rows that name none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from models_store.protocols import SPLITS
from workers.readers import ReadError

DEFAULT_FRACTIONS = (0.8, 0.1, 0.1)

#: Of the drawn splits; an append adds the number of its first row, so that each draws its own.
Seed = int | Sequence[int]

_PIECE = 1 << 16


def stratify(
    labels: npt.NDArray[np.int64],
    fractions: tuple[float, float, float],
    seed: Seed,
    *,
    train_each: bool = True,
) -> npt.NDArray[np.uint8]:
    """Return splits (n,) uint8 in the given ``fractions``, within about one row for every class.

    Rows are shuffled within their classes and placed, class after class, along a golden-ratio
    sequence: any run of it covers [0, 1) evenly, so each class and the whole get their shares,
    also when classes are smaller than 1/fraction. With ``train_each`` a class always keeps at least
    one training row.
    """
    generator = np.random.default_rng(seed)
    order = np.lexsort((generator.random(len(labels)), labels))
    start, bounds = generator.random(), np.cumsum(fractions)[:-1]
    splits = np.empty(len(labels), np.uint8)
    for first in range(0, len(labels), _PIECE):  # in pieces, to bound the memory in use
        here = order[first : first + _PIECE]
        place = (np.arange(first, first + len(here)) * (np.sqrt(5) - 1) / 2 + start) % 1
        splits[here] = np.searchsorted(bounds, place, side="right")
    if train_each and fractions[0] > 0:
        ordered = labels[order]
        firsts = np.flatnonzero(np.diff(ordered, prepend=ordered[:1] - 1))
        trained = np.logical_or.reduceat(splits[order] == 0, firsts)
        splits[order[firsts[~trained]]] = 0
    return splits


def check_fractions(fractions: tuple[float, float, float]) -> None:
    """Raise ``ReadError`` unless they are a share for each split, and sum to 1."""
    if len(fractions) != len(SPLITS) or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ReadError(
            f"the shares of {', '.join(SPLITS)} must be three numbers from 0 that sum to 1"
        )
