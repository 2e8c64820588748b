"""The certificate of a down-dated head: what shows that its weights are those of a refit.

It can be re-checked without data: the counts are arithmetic on whole numbers. With the retained
rows the digest is re-checked: their statistics have the same, bit for bit, on any machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from unlearning.heads import ridge
from unlearning.heads.statistics import Statistics

#: Largest ‖(G + λI)W − B‖ / ‖B‖ of weights that are accepted as solved.
MOST_RESIDUAL = 1e-10


@dataclass(frozen=True)
class Certificate:
    """Statistics before and after, and how well the weights solve them; λ is ``penalty``.

    ``rows_*`` and ``class_counts_*`` are read from the bias entries of the sums, except those of
    deleted and added rows, which are counted from the rows. ``headroom_bits`` is log₂ of the
    headroom, rounded down: its exact value would tell of the largest feature of a deleted row.
    """

    digest_before: str
    digest_after: str
    rows_before: int
    rows_deleted: int
    rows_added: int
    rows_after: int
    class_counts_before: tuple[int, ...]
    class_counts_deleted: tuple[int, ...]
    class_counts_added: tuple[int, ...]
    class_counts_after: tuple[int, ...]
    penalty: float
    residual: float
    headroom_bits: int
    grid_bits: int
    features: int

    def to_json(self) -> dict[str, Any]:
        """Return the certificate as JSON."""
        # Not ``asdict``, which copies every count: half of the time of a deletion of one row.
        return {name: list(v) if isinstance(v, tuple) else v for name, v in vars(self).items()}


def of(
    before: Statistics,
    after: Statistics,
    *,
    deleted: Tensor,
    added: Tensor,
    weights: Tensor,
    penalty: float,
) -> Certificate:
    """Return the certificate of weights W (d, classes).

    ``deleted`` and ``added`` (m,) int64 are the labels of the rows.
    """
    classes = before.moments.shape[1]
    return Certificate(
        digest_before=before.digest(),
        digest_after=after.digest(),
        rows_before=int(before.gram[-1, -1]),
        rows_deleted=len(deleted),
        rows_added=len(added),
        rows_after=int(after.gram[-1, -1]),
        class_counts_before=_counts(before),
        class_counts_deleted=tuple(deleted.bincount(minlength=classes).tolist()),
        class_counts_added=tuple(added.bincount(minlength=classes).tolist()),
        class_counts_after=_counts(after),
        penalty=penalty,
        residual=ridge.residual(after, weights, penalty),
        headroom_bits=math.floor(math.log2(after.headroom)),
        grid_bits=after.bits,
        features=len(after.gram),
    )


def faults(said: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a certificate's JSON; [] if it holds."""
    moved = [
        before - gone + come == after
        for before, gone, come, after in zip(
            said["class_counts_before"],
            said["class_counts_deleted"],
            said["class_counts_added"],
            said["class_counts_after"],
            strict=True,
        )
    ]
    rows = said["rows_before"] - said["rows_deleted"] + said["rows_added"]
    right = {
        "the number of rows did not fall by those deleted": rows == said["rows_after"],
        "the number of rows of a class did not fall by those deleted": all(moved),
        "the classes do not add up to the rows": (
            sum(said["class_counts_after"]) == said["rows_after"]
        ),
        "the sums are not exact in float64": said["headroom_bits"] >= 0,
        "the weights do not solve the equations": said["residual"] <= MOST_RESIDUAL,
        "the penalty is not above 0": said["penalty"] > 0,
    }
    return [why for why, holds in right.items() if not holds]


def _counts(found: Statistics) -> tuple[int, ...]:
    return tuple(found.class_counts.tolist())
