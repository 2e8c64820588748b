"""The curve of the loss attack: how many forgotten rows it finds, by how many false alarms."""

from __future__ import annotations

from typing import Any

import numpy as np

from unlearning.verification import measures
from unlearning.verification.attacks import membership
from unlearning.verification.statistics.matching import Comparison, Side

#: False positive rates of the points. They are few, so that no point is about single rows.
RATES = (0.01, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85)
#: Fewest forgotten rows for each point.
ROWS_PER_POINT = 10


def attack_curve(comparison: Comparison) -> dict[str, Any] | None:
    """Return the true positive rates at ``RATES`` of the version, its control and the references.

    Those of the references are their mean. None if there are too few forgotten rows for a curve.
    """
    if comparison.forget_rows < ROWS_PER_POINT * len(RATES):
        return None

    def on(side: Side) -> list[float]:
        return membership.curve(measures.losses(comparison, side), comparison.weights, at=RATES)

    references = [on(measures.reference(k)) for k in range(comparison.references)]
    return {
        "rows": comparison.forget_rows,
        "false_positive_rates": list(RATES),
        "unlearned": on(measures.unlearned),
        "control": on(measures.control),
        "reference": np.mean(references, axis=0).tolist() if references else None,
    }
