"""A model's unlearning policy: methods, when a batch closes, gates, approvals, deadlines."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(gt=0, le=1)]

#: The default method of a policy, and the last method that the default policy tries: an exact one.
#: The latter also does batches that must be exact if the policy names no suitable method.
DEFAULT, LAST_RESORT = "iau", "retrain"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class MethodChoice(_Frozen):
    """A method by its name, with its options."""

    method: str = Field(max_length=64, pattern=r"^[a-z][a-z0-9_]*$", examples=[LAST_RESORT])
    options: dict[str, Any] = Field(default_factory=dict)


class Drift(_Frozen):
    """How far approximate versions may move from their anchor before a full retrain."""

    max_share: Share = Field(default=0.10, description="share of the anchor's rows forgotten since")
    max_class_share: Share = Field(default=0.25, description="same, of the rows of one class")
    max_age_days: int | None = Field(default=None, ge=1, le=3650, description="age of the anchor")


class Approval(_Frozen):
    """Sizes above which a request waits for approval. None: never."""

    max_records_per_request: int | None = Field(default=None, ge=0, le=2**31 - 1)
    max_share_per_request: Share | None = Field(
        default=None, description="share of the dataset's rows"
    )
    max_records_per_day: int | None = Field(default=None, ge=0, le=2**31 - 1)
    max_share_per_day: Share | None = Field(default=None, description="share of the dataset's rows")
    second_person: bool = Field(
        default=False, description="the key that asked for a deletion may not approve it"
    )


class Margins(_Frozen):
    """How often the training rows are split to learn what a model that never saw a row says of it.

    A split of k folds costs about k - 1 trainings. 0 splits: never.
    """

    splits: int = Field(
        default=3,
        ge=0,
        le=4,
        description="all but one set a row's target, and that one judges it. 0: no margins are "
        "computed; with 1 nothing is left to judge a step with that aimed at it",
    )
    folds: int = Field(default=2, ge=2, le=8, description="models trained for each split")
    max_training_seconds: float = Field(
        default=3600.0,
        ge=0,
        le=3650 * 86_400,
        description="none are computed for an anchor whose own training took longer",
    )


class AutoTrain(_Frozen):
    """Which appended training rows have a training run queued; each None: none by this."""

    rows: int | None = Field(
        None, ge=1, le=2**31 - 1, description="appended training rows that no version has seen"
    )
    share: float | None = Field(
        None, gt=0, le=1000, description="the same as a share of those that one has seen"
    )
    days: float | None = Field(
        None, gt=0, le=3650, description="for how long the first of them has been there"
    )

    @property
    def never(self) -> bool:
        """Return whether no growth has a training queued."""
        return self == AutoTrain()


class Policy(_Frozen):
    """Everything that a model's owner decides about its unlearning."""

    method: str = Field(
        DEFAULT, max_length=64, pattern=r"^[a-z][a-z0-9_]*$", description="the unlearning method"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="the method's options")
    max_records: int = Field(
        256, ge=1, le=1_000_000, description="a batch closes when it has this many records"
    )
    max_wait_seconds: float = Field(
        10.0, ge=0, le=30 * 86_400, description="or when its oldest erasure has waited this long"
    )
    hold_seconds: float = Field(
        0.0,
        ge=0,
        le=14 * 86_400,
        description="undo window: so long after a request was accepted nothing of it is begun, and "
        "it can be cancelled; of several models the longest counts",
    )
    fallbacks: list[MethodChoice] = Field(
        default_factory=lambda: [MethodChoice(method=LAST_RESORT)],
        max_length=8,
        description="tried in turn when a version fails its verification",
    )
    gates: dict[str, Any] = Field(
        default_factory=dict, description="changes to the default gates of the verification"
    )
    promote_without_power: bool = Field(
        True, description="promote, marked, a version whose batch is too small to judge"
    )
    on_memorised: Literal["next_method", "hold", "promote"] = Field(
        "next_method",
        description="what becomes of a version whose batch is too small to judge, if the base "
        "version answers the batch's records right far above never-seen ones "
        "(gates.memorised_gap) and the version is not seen to have stopped: next_method tries the "
        "next method, and holds the version if there is none; hold waits for further requests to "
        "be judged with, or for approval, until hold_margin_days before the first of its requests "
        "is due, then it goes live, marked; promote does not wait. An exact version goes live",
    )
    on_accuracy_drop: Literal["hold", "promote"] = Field(
        "hold",
        description="what becomes of a retrained version that lost more accuracy than the gates "
        "allow and fails nothing else: hold waits for approval until hold_margin_days "
        "before the first of its requests is due, then it goes live; promote does not wait",
    )
    hold_margin_days: float = Field(
        3.0, ge=0, le=365, description="how long before the due date a hold ends by itself"
    )
    drift: Drift = Field(default_factory=Drift)
    auto_consolidate: bool = Field(
        True, description="retrain in the background when the drift budget is spent"
    )
    auto_train: AutoTrain = Field(
        default_factory=AutoTrain,
        description="train in the background when the dataset has grown by this",
    )
    purge_after_seconds: int = Field(
        86_400, ge=0, le=3650 * 86_400, description="from retiring a version to its destruction"
    )
    reference_models: int = Field(
        0,
        ge=0,
        le=64,
        description="models trained in the background to calibrate attacks; 1 counts as 2, since "
        "each of them leaves out half of the rows",
    )
    class_references: int = Field(
        0,
        ge=0,
        le=64,
        description="models trained in the background with which the linear probe of a forgotten "
        "class is compared; the classes are divided among them, each leaves out its share whole; "
        "1 counts as 2, and more than there are classes as one for each",
    )
    margins: Margins = Field(
        default_factory=Margins,
        description="margins of training rows under models that never saw them, computed in the "
        "background: a split of k folds costs about k - 1 trainings, and lets iau forget what the "
        "model knows by heart",
    )
    keep_update_log: bool = Field(
        False, description="training keeps the log of updates that some methods need"
    )
    update_log_megabytes: int = Field(1024, ge=1, le=1_000_000, description="cap of that log")
    approval: Approval = Field(default_factory=Approval)

    def choices(self) -> list[MethodChoice]:
        """Return its methods in the order in which they are tried, with their options."""
        return [MethodChoice(method=self.method, options=self.options), *self.fallbacks]
