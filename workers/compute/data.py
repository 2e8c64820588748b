"""Build the example sets of a computation from the rows of a dataset's array."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models_store import Store
from models_store.protocols import SPLITS, Array
from unlearning.core.examples import Examples

TRAIN, VALIDATION, AUDIT = range(3)

#: Row numbers.
Rows = Sequence[int] | NDArray[np.int64]

#: Fixed, so that every version of a dataset is measured on the same rows (minus the forgotten).
SAMPLING_SEED = 20_250_723


@dataclass(frozen=True)
class Layout:
    """The rows of an array's sets before any row is excluded; computed once per array.

    ``splits`` (n,) uint8; ``training`` (n,) bool; ``places`` (n,) int32: each row's place in a
    fixed random order; ``ordered``: the rows of training, validation and audit, (m,) int32, in
    that order.

    Where the rows of the training are listed, they replace the train split and are removed from
    the other splits: a row that the model was trained on must neither calibrate nor judge it.
    """

    splits: Tensor
    training: Tensor
    places: Tensor
    ordered: tuple[Tensor, ...]

    @classmethod
    def of(cls, array: Array, trained_on: Rows | None) -> Layout:
        """Return the layout of an array; takes time in proportion to its rows."""
        splits = torch.from_numpy(np.array(array.splits))
        training = splits == TRAIN if trained_on is None else _mask(len(splits), trained_on)
        generator = torch.Generator().manual_seed(SAMPLING_SEED)
        places = torch.randperm(len(splits), generator=generator).to(torch.int32)
        made = cls(splits, training, places, ())
        sets = [made.mask(which).nonzero()[:, 0] for which in range(len(SPLITS))]
        ordered = tuple(rows[places[rows].argsort()].to(torch.int32) for rows in sets)
        return cls(splits, training, places, ordered)

    def mask(self, which: int) -> Tensor:
        """Whether each row is of the set, (n,) bool."""
        if which == TRAIN:
            return self.training
        return (self.splits == which) & ~self.training


@dataclass(frozen=True)
class Data:
    """A dataset's array without the rows that may not be read.

    ``x`` and ``y`` are views of the memory-mapped files: a set only allocates its row numbers.
    """

    x: Tensor
    y: Tensor
    layout: Layout
    excluded: Tensor
    classes: int

    def split(self, which: int) -> Examples:
        """Return the allowed rows of one split; TRAIN means the rows trained on (``Layout``)."""
        return self._where(self.layout.mask(which) & ~self.excluded)

    def retain(self, forget: Sequence[int]) -> Examples:
        """Return the allowed training rows without the forget rows."""
        allowed = self.layout.training & ~self.excluded
        allowed[torch.as_tensor(list(forget), dtype=torch.int64)] = False
        return self._where(allowed)

    def sample(
        self, which: int, count: int, *, without: Sequence[int] = (), rest: int = 0
    ) -> Examples:
        """Return the first ``count`` allowed rows of a split in a fixed random order, sorted.

        All of them if fewer than ``rest`` would be left out. Excluding a row changes no other row's
        place. The time is in proportion to the sample and
        to the excluded rows among the first ones, not to the split.
        """
        left_out = torch.as_tensor(list(without), dtype=torch.int64)
        found: list[Tensor] = [torch.empty(0, dtype=torch.int64)]
        wanted = count + rest
        for piece in torch.split(self.layout.ordered[which], max(wanted, 1)):
            rows = piece.long()
            found.append(rows[~(self.excluded[rows] | torch.isin(rows, left_out))])
            if sum(map(len, found)) >= wanted:
                break
        allowed = torch.cat(found)
        chosen = allowed if len(allowed) < wanted else allowed[:count]
        return Examples(self.x, self.y, chosen.sort().values)

    def first(self, numbers: Sequence[int], count: int) -> Examples:
        """Return the first ``count`` of these rows, excluded or not, in the same order, sorted."""
        rows = torch.as_tensor(list(numbers), dtype=torch.int64)
        chosen = rows[self.layout.places[rows].argsort()[:count]]
        return Examples(self.x, self.y, chosen.sort().values)

    def rows(self, numbers: Sequence[int]) -> Examples:
        """Return exactly these rows, excluded or not; they keep their numbers."""
        return Examples(self.x, self.y, torch.as_tensor(list(numbers), dtype=torch.int64))

    def _where(self, mask: Tensor) -> Examples:
        return Examples(self.x, self.y, mask.nonzero()[:, 0])


Remember = Callable[[tuple[str, ...], Callable[[], Layout]], Layout]


def open_array(
    store: Store,
    key: str,
    *,
    excluded: Rows | Callable[[int], Tensor],
    trained_on: Rows | None = None,
    remember: Remember | None = None,
) -> Data:
    """Open the array ``key``; ``excluded`` rows are kept out of every set but ``rows``.

    ``excluded`` lists the rows, or maps the number n of rows to a mask, (n,) bool.

    ``trained_on`` lists the rows that replace the train split; None: the split itself.
    ``remember`` caches the layout from one request to the next.
    """
    array = store.rows.open(key)
    if remember is None:
        layout = Layout.of(array, trained_on)
    else:
        name = ("layout", store.location, key, _name(trained_on))
        layout = remember(name, lambda: Layout.of(array, trained_on))
    return Data(
        x=torch.from_numpy(array.rows),
        y=torch.from_numpy(array.labels),
        layout=layout,
        excluded=(excluded(len(array)) if callable(excluded) else _mask(len(array), excluded)),
        classes=int(array.manifest["classes"]),
    )


def _name(trained_on: Rows | None) -> str:
    if trained_on is None:
        return ""
    return hashlib.sha256(np.asarray(trained_on, dtype="<i8").tobytes()).hexdigest()


def _mask(rows: int, chosen: Rows) -> Tensor:
    mask = torch.zeros(rows, dtype=torch.bool)
    mask[torch.as_tensor(chosen, dtype=torch.int64)] = True
    return mask
