"""The certificates of heads: what shows that weights are those of a fit without the rows.

They can be re-checked without data: the counts are arithmetic on whole numbers, and so is the bound
on the distance. With the retained rows their sums are re-checked, which have the same digest, bit
for bit, on any machine, and what the weights are to these rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from unlearning.heads import multinomial, ridge
from unlearning.heads.multinomial import Slope
from unlearning.heads.statistics import Statistics

#: Largest ‖(G + λI)W − B‖ / ‖B‖ of weights that are accepted as solved.
MOST_RESIDUAL = 1e-10
#: Largest bound on ‖W − W*‖ of weights that are accepted as those of the minimum W*.
MOST_DISTANCE = 1e-4


@dataclass(frozen=True)
class Certificate:
    """Statistics before and after a deletion; λ is ``penalty``.

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
    headroom_bits: int
    grid_bits: int
    features: int

    def to_json(self) -> dict[str, Any]:
        """Return the certificate as JSON."""
        # Not ``asdict``, which copies every count: half of the time of a deletion of one row.
        return {name: list(v) if isinstance(v, tuple) else v for name, v in vars(self).items()}


@dataclass(frozen=True)
class Solved(Certificate):
    """The certificate of a ridge head: how well its weights solve the equations of the sums."""

    residual: float


@dataclass(frozen=True)
class Bounded(Certificate):
    """The certificate of a logistic head: how far its weights are from the minimum W* at most.

    ``gradient_norm`` is ‖∇F‖ as computed over the retained rows, ``rounding`` bounds its error, and
    ``distance_bound`` is their sum divided by λ.
    """

    gradient_norm: float
    rounding: float
    distance_bound: float


def solved(
    before: Statistics,
    after: Statistics,
    *,
    deleted: Tensor,
    added: Tensor,
    weights: Tensor,
    penalty: float,
) -> Solved:
    """Return the certificate of weights W (d, classes) of a ridge head.

    ``deleted`` and ``added`` (m,) int64 are the labels of the rows.
    """
    sums = _of_sums(before, after, deleted, added)
    return Solved(**sums, penalty=penalty, residual=ridge.residual(after, weights, penalty))


def bounded(
    before: Statistics,
    after: Statistics,
    *,
    deleted: Tensor,
    added: Tensor,
    slope: Slope,
    penalty: float,
) -> Bounded:
    """Return the certificate of a logistic head, ``slope`` being that at its weights.

    ``deleted`` and ``added`` (m,) int64 are the labels of the rows.
    """
    return Bounded(
        **_of_sums(before, after, deleted, added),
        penalty=penalty,
        gradient_norm=slope.norm,
        rounding=slope.rounding,
        distance_bound=multinomial.distance_bound(slope.norm, slope.rounding, penalty),
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
        "the penalty is not above 0": said["penalty"] > 0,
    }
    right |= _of_a_minimum(said) if "gradient_norm" in said else _of_a_solution(said)
    return [why for why, holds in right.items() if not holds]


def _of_a_solution(said: Mapping[str, Any]) -> dict[str, bool]:
    return {"the weights do not solve the equations": said["residual"] <= MOST_RESIDUAL}


def _of_a_minimum(said: Mapping[str, Any]) -> dict[str, bool]:
    norm, rounding, penalty = said["gradient_norm"], said["rounding"], said["penalty"]
    return {
        "the gradient or its rounding is not a size": norm >= 0 and rounding > 0,
        "the bound is not that of the gradient": penalty > 0
        and said["distance_bound"] >= multinomial.distance_bound(norm, rounding, penalty),
        "the weights are too far from the minimum": said["distance_bound"] <= MOST_DISTANCE,
    }


def _of_sums(
    before: Statistics, after: Statistics, deleted: Tensor, added: Tensor
) -> dict[str, Any]:
    classes = before.moments.shape[1]
    return {
        "digest_before": before.digest(),
        "digest_after": after.digest(),
        "rows_before": int(before.gram[-1, -1]),
        "rows_deleted": len(deleted),
        "rows_added": len(added),
        "rows_after": int(after.gram[-1, -1]),
        "class_counts_before": _counts(before),
        "class_counts_deleted": tuple(deleted.bincount(minlength=classes).tolist()),
        "class_counts_added": tuple(added.bincount(minlength=classes).tolist()),
        "class_counts_after": _counts(after),
        "headroom_bits": math.floor(math.log2(after.headroom)),
        "grid_bits": after.bits,
        "features": len(after.gram),
    }


def _counts(found: Statistics) -> tuple[int, ...]:
    return tuple(found.class_counts.tolist())
