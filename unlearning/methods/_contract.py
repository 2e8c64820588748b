"""What every method is given beside the data, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from unlearning.core.examples import Examples

if TYPE_CHECKING:
    from unlearning.anchored.anchor import Anchor, Forgotten
    from unlearning.anchored.targets import BatchMargins
    from unlearning.core.training import Recipe
    from unlearning.core.training_state import Keep, TrainingState
    from unlearning.core.update_log import UpdateLog


def _silent(_fraction: float) -> None:
    """Ignore progress."""


def _not_kept(_state: TrainingState) -> None:
    """Let go of a state that nobody keeps."""


@dataclass(frozen=True)
class Context:
    """What a method may use beside the model, the forget and the retain data.

    A method takes what it needs and raises ``WrongOptions`` or ``NeedsRetrain`` when something it
    cannot do without is missing.
    """

    kind: Literal["records", "class"] = "records"
    #: Held-out rows for targets and guards. They never judge the result.
    calibration: Examples | None = None
    #: The anchor θ₀ of the model's chain with its cached quantities.
    anchor: Anchor | None = None
    #: What was forgotten since the anchor (running sums), before this batch.
    forgotten: Forgotten | None = None
    #: Whether earlier batches have moved the model away from the weights its chain began with.
    moved: bool = False
    #: The earlier forgotten rows, while they have not been erased yet.
    earlier: Examples | None = None
    #: What models that never saw the batch's rows say of them; None where there is nothing.
    margins: BatchMargins | None = None
    #: A fresh, untrained copy of the architecture, seeded by the caller.
    fresh: Callable[[], nn.Module] | None = None
    #: How the model was trained, for methods that train.
    recipe: Recipe | None = None
    #: Per-batch weight differences kept while training.
    update_log: UpdateLog | None = None
    #: Of a training that was interrupted: the state to go on from.
    resume: TrainingState | None = None
    #: Told the state of a training after each of its epochs.
    kept: Keep = _not_kept
    #: Called with the fraction done, 0 to 1.
    progress: Callable[[float], None] = _silent


@dataclass(frozen=True)
class Update:
    """A new model and how it came about."""

    model: nn.Module
    #: Running sums since the anchor including this batch; None when the result is a new anchor.
    forgotten: Forgotten | None = None
    #: The anchor that was prepared on the way because the context had none; worth storing.
    anchor: Anchor | None = None
    #: The log of the training that gave the new weights, where one was kept.
    update_log: UpdateLog | None = None
    #: True of an exact method, and of no other: the weights are those of a training on the retained
    #: rows alone, all of them, so that a new chain begins with them.
    is_anchor: bool = False
    #: Plain numbers and words about the update, JSON-able: step length, target, passes, ...
    notes: Mapping[str, Any] = field(default_factory=dict)
    #: Reasons to retrain soon or at once; empty when the update stands on its own.
    retrain_because: tuple[str, ...] = ()


Weights = Mapping[str, Tensor]
