"""scikit-learn's bundled handwritten digits as the demo client's own dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models_store.protocols import SPLITS
from workers.sources.splits import stratify

FILE = "digits.npz"
SEED = 7
#: Enough validation rows for the guard, enough never-seen rows for the membership interval.
FRACTIONS = (0.7, 0.1, 0.2)
SUBJECT_RECORDS = 40


@dataclass(frozen=True)
class Digits:
    """1,797 images (n, 1, 8, 8) uint8 in 0..16, labels, splits, record ids and subjects.

    The images carry no writer: 40 consecutive training images at a time are given one invented
    writer, so that a subject with 40 records exists.
    """

    x: npt.NDArray[np.uint8]
    y: npt.NDArray[np.int64]
    splits: npt.NDArray[np.uint8]
    record_ids: list[str]
    subject_ids: list[str]

    def rows(self, split: int) -> npt.NDArray[np.int64]:
        """Return the rows of one split (0 train, 1 validation, 2 audit)."""
        return np.flatnonzero(self.splits == split)

    def write(self, path: Path) -> None:
        """Write them as the NPZ file that the service ingests."""
        np.savez(
            path,
            x=self.x,
            y=self.y,
            record_id=np.array(self.record_ids),
            subject_id=np.array(self.subject_ids),
            split=np.array([SPLITS[split] for split in self.splits]),
        )


def load() -> Digits:
    """Return the digits with fixed splits and subjects."""
    from sklearn.datasets import load_digits

    bundled = load_digits()
    y = bundled.target.astype(np.int64)
    splits = stratify(y, FRACTIONS, SEED)
    subjects = ["nobody"] * len(y)
    for position, row in enumerate(np.flatnonzero(splits == 0)):
        subjects[row] = f"writer-{position // SUBJECT_RECORDS}"
    return Digits(
        x=bundled.images.astype(np.uint8)[:, None],
        y=y,
        splits=splits,
        record_ids=[f"digit-{row:04d}" for row in range(len(y))],
        subject_ids=subjects,
    )
