"""The interface of every method: its context and its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from unlearning.core.examples import Examples
from unlearning.core.task import PLAIN, TrainingLoss

if TYPE_CHECKING:
    from unlearning.anchored.anchor import Anchor, Forgotten
    from unlearning.anchored.targets import BatchMargins
    from unlearning.core.training import OwnCode, Recipe
    from unlearning.core.training_state import Keep, TrainingState
    from unlearning.core.update_log import UpdateLog
    from unlearning.heads.statistics import Statistics


def _silent(_fraction: float) -> None:
    """Ignore progress."""


def _not_kept(_state: TrainingState) -> None:
    """Drop a state that is not kept."""


@dataclass(frozen=True)
class Context:
    """What a method may use besides the model, the forget and the retain data.

    A method takes what it needs and raises ``WrongOptions`` or ``NeedsRetrain`` if something that
    it requires is missing.
    """

    kind: Literal["records", "class"] = "records"
    #: Held-out rows for targets and guards. They never judge the result.
    calibration: Examples | None = None
    #: The anchor θ₀ of the model's chain with its cached quantities.
    anchor: Anchor | None = None
    #: Running sums of what was forgotten since the anchor, before this batch.
    forgotten: Forgotten | None = None
    #: Whether earlier batches have moved the model from the weights its chain began with.
    moved: bool = False
    #: The earlier forgotten rows, as long as none has been erased.
    earlier: Examples | None = None
    #: Margins of the batch's rows under models that never saw them; None if there are none.
    margins: BatchMargins | None = None
    #: Returns an untrained model of the architecture, seeded by the caller.
    fresh: Callable[[], nn.Module] | None = None
    #: How the model was trained, for methods that train.
    recipe: Recipe | OwnCode | None = None
    #: What the model's training minimised, where it is not the loss itself.
    training_loss: TrainingLoss = PLAIN
    #: Per-batch weight differences kept while training.
    update_log: UpdateLog | None = None
    #: The sums of the base version's training rows, if it is a head that was fitted to its minimum.
    statistics: Statistics | None = None
    #: The state from which an interrupted training resumes.
    resume: TrainingState | None = None
    #: Receives the state of a training after each of its epochs.
    kept: Keep = _not_kept
    #: Called with the fraction done, 0 to 1.
    progress: Callable[[float], None] = _silent


@dataclass(frozen=True)
class Update:
    """A new model, and data about how it was made."""

    model: nn.Module
    #: Running sums since the anchor including this batch; None when the result is a new anchor.
    forgotten: Forgotten | None = None
    #: The anchor that was prepared here because the context had none; worth storing.
    anchor: Anchor | None = None
    #: The log of the training that gave the new weights, if one was kept.
    update_log: UpdateLog | None = None
    #: The sums of the retained rows, if the new weights were solved from them.
    statistics: Statistics | None = None
    #: What shows that the weights are those of a fit on the retained rows, or how near they are, as
    #: JSON; None unless the method proves it with each update. It decides the verdict.
    certificate: Mapping[str, Any] | None = None
    #: True for an exact or certified method and no other: the weights are those of a training on
    #: all retained rows and nothing else, or proven near, so that a new chain begins with them.
    is_anchor: bool = False
    #: Plain numbers and words about the update, as JSON: step length, target, passes, ...
    notes: Mapping[str, Any] = field(default_factory=dict)
    #: Reasons to retrain soon or at once; empty if there are none.
    retrain_because: tuple[str, ...] = ()


Weights = Mapping[str, Tensor]
