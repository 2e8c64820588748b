"""Settings of ``iau``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from unlearning.core import objective


@dataclass(frozen=True)
class Options:
    """Settings of the step; the defaults are meant to be left alone."""

    #: "matched" needs out-of-fold margins of the rows; without them "calibrated" is taken.
    step: Literal["matched", "calibrated", "adam1", "sgd"] = "matched"
    preconditioner: Literal["kfac", "none"] = "kfac"
    #: For ``adam1`` and ``sgd``; the calibrated step finds its own length.
    learning_rate: Annotated[float, Gt(0), Le(10)] = 1e-3
    #: How near the target the mean forget loss must come, as a share of the gap.
    tolerance: Annotated[float, Gt(0), Le(0.5)] = 0.04
    #: Forgotten rows that the search looks at, at most.
    search_rows: Annotated[int, Ge(1), Le(100_000)] = 1024
    #: Allowed relative rise of the validation loss (a rise of 0.01 passes in any case).
    guard_rise: Annotated[float, Gt(0), Le(1)] = 0.02
    #: The same for a whole class, on the other classes' rows: leaving a class takes a longer step.
    class_guard_rise: Annotated[float, Gt(0), Le(1)] = 0.15
    #: Validation rows that the guard looks at, at most.
    guard_rows: Annotated[int, Ge(1), Le(1_000_000)] = 2000
    #: Accuracy on a forgotten class at which its forgetting stops.
    class_accuracy: Annotated[float, Ge(0), Le(1)] = 0.01
    #: Share of the anchor's rows, and of one class's, beyond which a retrain is asked for.
    max_forgotten_share: Annotated[float, Gt(0), Le(1)] = 0.10
    max_class_share: Annotated[float, Gt(0), Le(1)] = 0.25
    #: For ``matched``: how far a row may stay from its target, against the curvature. On digits
    #: 0.1 to 100 are alike.
    noise: Annotated[float, Gt(0), Le(1e6)] = 0.1
    #: For ``matched``: how often the margins' derivatives are taken anew on the way, at most.
    jacobians: Annotated[int, Ge(1), Le(100)] = 6
    #: For ``matched``: retained rows that may be held where they were, and of the correction.
    retained_rows: Annotated[int, Ge(1), Le(100_000)] = 512
    #: For ``matched``: gradient steps on retained rows at most, and their learning rate (Adam).
    #: Those are kept after which the validation loss is lower; 0 steps turn this off.
    correction_steps: Annotated[int, Ge(0), Le(10_000)] = 128
    correction_rate: Annotated[float, Gt(0), Le(1)] = 1e-3
    #: For ``matched``: megabytes of factors or per-row gradients that may be formed.
    memory_megabytes: Annotated[int, Ge(1), Le(1_000_000)] = 512
    #: For ``matched``: allowed relative rise of the validation loss (0.02 passes in any case) and
    #: drop of the validation accuracy since the anchor, each beyond its standard error.
    matched_guard_rise: Annotated[float, Gt(0), Le(1)] = 0.10
    matched_guard_drop: Annotated[float, Gt(0), Le(1)] = 0.01
    #: For ``matched``: share of the anchor's rows beyond which a retrain is asked for.
    matched_forgotten_share: Annotated[float, Gt(0), Le(1)] = 0.20
    batch_size: Annotated[int, Ge(1), Le(65_536)] = objective.BATCH
