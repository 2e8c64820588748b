"""Average rank over removal, utility and time; the best has rank 1, equal ones share a rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from benchmarks.methods.measuring import Numbers


@dataclass(frozen=True)
class Ranks:
    """Ranks of one method among the others."""

    removal: float
    utility: float
    time: float

    @property
    def average(self) -> float:
        """The mean of the three."""
        return (self.removal + self.utility + self.time) / 3


def rank(measured: Mapping[str, tuple[Numbers, float]]) -> dict[str, Ranks]:
    """Ranks by name, from each method's numbers and processor seconds.

    Removal is the mean of two ranks, ranked again: the distance of the membership AUC and of the
    forget accuracy from the references'. Utility is test accuracy. Time is processor seconds of
    the update, which other programs on the machine do not disturb.
    """
    if not measured:
        return {}
    numbers = [n for n, _ in measured.values()]
    auc = rankdata([n.auc_distance for n in numbers])
    forget = rankdata([n.forget_distance for n in numbers])
    removal = rankdata((auc + forget) / 2)
    utility = rankdata([-n.test for n in numbers])
    time = rankdata([seconds for _, seconds in measured.values()])
    table = np.stack([removal, utility, time], axis=1).tolist()
    return {name: Ranks(*row) for name, row in zip(measured, table, strict=True)}
