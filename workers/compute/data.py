"""Build the example sets of a computation from the rows of a dataset's array."""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models_store import Store
from models_store.protocols import SPLITS, Array
from service.messages import sampling
from unlearning.core.examples import Examples
from unlearning.core.joined import Joined

TRAIN, VALIDATION, AUDIT = range(3)

#: Row numbers.
Rows = Sequence[int] | NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """The rows of a dataset's sets before any row is excluded; computed once for its arrays.

    ``splits`` (n,) uint8; ``training`` (n,) bool; ``places`` (n,) int32: the place of each row
    (``service.messages.sampling``); ``ordered``: the rows of training, validation and audit, (m,)
    int32, in the order of their places.

    Where the rows of the training are listed, they replace the train split and are removed from
    the other splits: a row that the model was trained on must neither calibrate nor judge it.
    """

    splits: Tensor
    training: Tensor
    places: Tensor
    ordered: tuple[Tensor, ...]

    @classmethod
    def of(cls, found: Sequence[Array], trained_on: Rows | None) -> Layout:
        """Return the layout of a dataset's arrays; takes time in proportion to their rows."""
        splits = torch.from_numpy(np.concatenate([array.splits for array in found]))
        training = splits == TRAIN if trained_on is None else mask(len(splits), trained_on)
        places = sampling.place(torch.arange(len(splits))).to(torch.int32)
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
    """A dataset's arrays without the rows that may not be read.

    ``x`` is a view of the memory-mapped files: a set only allocates its row numbers.
    """

    x: Tensor | Joined
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

    def limit(self, which: int, count: int, *, rest: int = 0) -> int:
        """Return the limit of the places of a sample of ``count`` rows of a split.

        It depends on the set as it was before any row was excluded. No row is left out if fewer
        than ``rest`` would be.
        """
        rows = self.layout.ordered[which]
        if len(rows) < count + max(rest, 1):
            return sampling.PLACES
        return int(self.layout.places[rows[count]])

    def sample(self, which: int, limit: int, *, without: Sequence[int] = ()) -> Examples:
        """Return the allowed rows of a split whose places are below ``limit``, sorted.

        The time is in proportion to the sample, not to the split.
        """
        rows = self.layout.ordered[which]
        end = bisect.bisect_left(
            range(len(rows)), limit, key=lambda i: int(self.layout.places[rows[i]])
        )
        chosen = rows[:end].long()
        left_out = torch.as_tensor(list(without), dtype=torch.int64)
        allowed = chosen[~(self.excluded[chosen] | torch.isin(chosen, left_out))]
        return Examples(self.x, self.y, allowed.sort().values)

    def first(self, numbers: Sequence[int], count: int) -> Examples:
        """Return the ``count`` of these rows with the lowest places, excluded or not, sorted."""
        rows = torch.as_tensor(list(numbers), dtype=torch.int64)
        chosen = rows[self.layout.places[rows].argsort()[:count]]
        return Examples(self.x, self.y, chosen.sort().values)

    def rows(self, numbers: Sequence[int]) -> Examples:
        """Return exactly these rows, excluded or not; they keep their numbers."""
        return Examples(self.x, self.y, torch.as_tensor(list(numbers), dtype=torch.int64))

    def _where(self, mask: Tensor) -> Examples:
        return Examples(self.x, self.y, mask.nonzero()[:, 0])


Remember = Callable[[tuple[str, ...], Callable[[], Layout]], Layout]


def open_arrays(
    store: Store,
    keys: Sequence[str],
    *,
    excluded: Rows | Callable[[int], Tensor],
    trained_on: Rows | None = None,
    remember: Remember | None = None,
) -> Data:
    """Open the arrays ``keys`` as one; ``excluded`` rows are kept out of every set but ``rows``.

    Rows are numbered through all arrays, in their order. ``excluded`` lists rows, or maps the
    number n of rows to a mask, (n,) bool; rows of later arrays of the dataset may be listed.

    ``trained_on`` lists the rows that replace the train split; None: the split itself.
    ``remember`` caches the layout from one request to the next.
    """
    found = [store.rows.open(key, beside=keys) for key in keys]
    count = sum(map(len, found))
    if remember is None:
        layout = Layout.of(found, trained_on)
    else:
        name = ("layout", store.location, *keys, _name(trained_on))
        layout = remember(name, lambda: Layout.of(found, trained_on))
    x = [torch.from_numpy(array.rows) for array in found]
    y = [torch.from_numpy(array.labels) for array in found]
    return Data(
        x=x[0] if len(x) == 1 else Joined(x),
        y=y[0] if len(y) == 1 else torch.cat(y),
        layout=layout,
        excluded=excluded(count) if callable(excluded) else mask(count, excluded),
        classes=int(found[0].manifest["classes"]),
    )


def _name(trained_on: Rows | None) -> str:
    if trained_on is None:
        return ""
    return hashlib.sha256(np.asarray(trained_on, dtype="<i8").tobytes()).hexdigest()


def mask(rows: int, chosen: Rows) -> Tensor:
    """Return which of the first ``rows`` are ``chosen``, (rows,) bool; others may be listed too."""
    found = torch.zeros(rows, dtype=torch.bool)
    listed = torch.as_tensor(chosen, dtype=torch.int64)
    found[listed[listed < rows]] = True
    return found
