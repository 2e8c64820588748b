"""Judge scored models as the service would: default gates, margins of models apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.auditor.scoring import CRITERIA, Case, Scored
from unlearning import verification
from unlearning.verification import ModelScores
from unlearning.verification.report import Verification


def judged(scored: Scored, case: Case) -> Verification:
    """Judge one case of a world as an update of its base."""
    outside = scored.outside[case.which]
    return verification.verify(
        _cut(scored.models[case.model], case.rows),
        _cut(scored.base(case.which), case.rows),
        changed=True,
        lineage_clean=True,
        criteria=CRITERIA,
        outside=replace(outside, forget=outside.forget[case.rows]),
        refit=case.refit,
        relearn=case.relearn,
    )


def _cut(scores: ModelScores, rows: NDArray[np.int64]) -> ModelScores:
    return replace(scores, forget=scores.forget.take(rows))
