"""From rows of a dataset's array to the example sets of a computation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models_store import arrays
from unlearning.examples import Examples

TRAIN, VALIDATION, AUDIT = range(3)


@dataclass(frozen=True)
class Data:
    """A dataset's array with the rows that may not be read taken out.

    ``x`` and ``y`` are views of the memory-mapped files: a set costs its row numbers only.
    """

    x: Tensor
    y: Tensor
    splits: Tensor
    excluded: Tensor
    training: Tensor

    def split(self, which: int) -> Examples:
        """The allowed rows of one split.

        Where the rows of the training are listed, TRAIN are those of the list, and the other
        splits lack them: a row that was trained on neither calibrates nor judges.
        """
        if which == TRAIN:
            return self._where(self.training & ~self.excluded)
        return self._where((self.splits == which) & ~self.training & ~self.excluded)

    def retain(self, forget: Sequence[int]) -> Examples:
        """Allowed training rows without the forget rows."""
        allowed = self.training & ~self.excluded
        allowed[torch.as_tensor(list(forget), dtype=torch.int64)] = False
        return self._where(allowed)

    def rows(self, numbers: Sequence[int]) -> Examples:
        """Just these rows, excluded or not; they keep their numbers."""
        return Examples(self.x, self.y, torch.as_tensor(list(numbers), dtype=torch.int64))

    def _where(self, mask: Tensor) -> Examples:
        return Examples(self.x, self.y, mask.nonzero()[:, 0])


def open_array(
    root: Path, key: str, *, excluded: Sequence[int], trained_on: Sequence[int] | None = None
) -> Data:
    """Open the array ``key``; ``excluded`` rows are kept out of every set but ``rows``.

    ``trained_on`` are the rows that take the place of the train split; None: the split itself.
    """
    array = arrays.open(root, key)
    splits = torch.from_numpy(np.array(array.splits))
    return Data(
        x=_tensor(array.rows),
        y=torch.from_numpy(np.array(array.labels)),
        splits=splits,
        excluded=_mask(len(array), excluded),
        training=splits == TRAIN if trained_on is None else _mask(len(array), trained_on),
    )


def _mask(rows: int, chosen: Sequence[int]) -> Tensor:
    mask = torch.zeros(rows, dtype=torch.bool)
    mask[torch.as_tensor(list(chosen), dtype=torch.int64)] = True
    return mask


def _tensor(mapped: np.memmap[tuple[int, ...], np.dtype[np.generic]]) -> Tensor:
    # Mapped again copy-on-write: torch takes only writable arrays, and a stray write must never
    # reach the file.
    assert mapped.filename is not None
    private = np.memmap(
        mapped.filename, dtype=mapped.dtype, mode="c", offset=mapped.offset, shape=mapped.shape
    )
    return torch.from_numpy(private)
