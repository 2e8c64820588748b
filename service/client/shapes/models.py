"""Shapes of models."""

# Written by `make client` from the OpenAPI document; do not edit.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from ..answers import Answer, Given, Page, Word


class MoveView(Answer):
    """One move of the alias."""

    #: null: the production version was withdrawn
    version: int | None
    previous: int | None
    reason: str = Field(repr=False)
    moved_by: str
    moved_at: datetime


class AliasView(Answer):
    """The alias and a page of its history, newest first."""

    alias: str
    model: str
    #: null: nothing is live
    version: int | None
    history: Page[MoveView]


class Approval(Given):
    """Sizes above which a request waits for approval. None: never."""

    max_records_per_request: int | None = None
    #: share of the dataset's rows
    max_share_per_request: float | None = None
    max_records_per_day: int | None = None
    #: share of the dataset's rows
    max_share_per_day: float | None = None
    #: the key that asked for a deletion may not approve it
    second_person: bool | None = None


class ArchitectureGiven(Given):
    """An installed architecture; parameters that the dataset decides may be left out."""

    name: str
    parameters: Mapping[str, Any] | None = None


class AutoTrain(Given):
    """Which appended training rows have a training run queued; each None: none by this."""

    #: appended training rows that no version has seen
    rows: int | None = None
    #: the same as a share of those that one has seen
    share: float | None = None
    #: for how long the first of them has been there
    days: float | None = None


class BatchStatus(StrEnum):
    """Erasures of one model that are unlearned together."""

    RUNNING = "running"
    HELD = "held"
    COMPLETED = "completed"
    FAILED = "failed"


class BatchDetail(Answer):
    """A batch with the requests that it serves."""

    id: str
    model: str
    status: Word[BatchStatus]
    #: records or class
    kind: str
    #: records of the base version that it forgets
    records: int
    base_version: int | None
    #: number of the version that it made
    version: int | None
    #: requested by run-now; null: the policy's
    method: Mapping[str, Any] | None
    seed: int
    attempts: int
    error: str | None
    created_at: datetime
    #: of a held batch: when its version goes live by itself
    held_until: datetime | None
    finished_at: datetime | None
    deletion_requests: list[str]


class BatchView(Answer):
    """Erasures of one model that are unlearned together."""

    id: str
    model: str
    status: Word[BatchStatus]
    #: records or class
    kind: str
    #: records of the base version that it forgets
    records: int
    base_version: int | None
    #: number of the version that it made
    version: int | None
    #: requested by run-now; null: the policy's
    method: Mapping[str, Any] | None
    seed: int
    attempts: int
    error: str | None
    created_at: datetime
    #: of a held batch: when its version goes live by itself
    held_until: datetime | None
    finished_at: datetime | None


class Drift(Given):
    """How far approximate versions may move from their anchor before a full retrain."""

    #: share of the anchor's rows forgotten since
    max_share: float | None = None
    #: same, of the rows of one class
    max_class_share: float | None = None
    #: age of the anchor
    max_age_days: int | None = None


class DriftView(Answer):
    """What was forgotten since the anchor of the production version."""

    anchor: int
    batches: int
    forgotten: int
    anchor_rows: int
    #: of the anchor's rows; classes forgotten whole do not count
    share: float
    #: largest share of one class, rounded up to steps of 0.05; of classes forgotten whole, and of
    #: fewer than 10 forgotten rows, it is not shown
    class_share: float | None
    age_days: float


class Margins(Given):
    """How often the training rows are split to learn what a model that never saw a row.

    How often the training rows are split to learn what a model that never saw a row says of it. A
    split of k folds costs about k - 1 trainings. 0 splits: never.
    """

    #: all but one set a row's target, and that one judges it. 0: no margins are computed; with 1
    #: nothing is left to judge a step with that aimed at it
    splits: int | None = None
    #: models trained for each split
    folds: int | None = None
    #: none are computed for an anchor whose own training took longer
    max_training_seconds: float | None = None


class MarginsView(Answer):
    """How far the margins are that the policy asks for; their values are never shown."""

    #: ready: the next batch moves each row to a target of its own; until then, and where they are
    #: unavailable, the calibrated step is taken
    state: str
    reason: str | None = Field(repr=False)
    #: models to train: splits times folds
    models: int
    trained: int
    #: epochs trained so far, counted over all training rows
    epochs: float
    #: training rows that have margins, or will have them
    rows: int


class MethodChoice(Given):
    """A method by its name, with its options."""

    method: str
    options: Mapping[str, Any] | None = None


class ModelStatus(StrEnum):
    """A model as its owner sees it; derived from its row."""

    PREPARING = "preparing"
    READY = "ready"
    INVALID = "invalid"
    WITHDRAWN = "withdrawn"
    PURGED = "purged"


class ModelDetail(Answer):
    """A model with its current work."""

    name: str
    dataset: str
    #: preparing: a worker has not built the network yet; invalid: see `error`; withdrawn: nothing
    #: is served any more; purged: all its versions are destroyed
    status: Word[ModelStatus]
    error: str | None
    architecture: Mapping[str, Any]
    transform: Mapping[str, Any]
    recipe: Mapping[str, Any]
    policy: Mapping[str, Any]
    #: number of the production version
    production: int | None
    run_now_at: datetime | None
    created_at: datetime
    withdrawn_at: datetime | None
    purged_at: datetime | None
    #: tensors of a checkpoint: {name: [shape, dtype]}; null while preparing
    parameters: Mapping[str, Any] | None
    #: names of `parameters` that are one tensor: a checkpoint holds it under one of them, or under
    #: several with equal values; null while preparing
    tied: list[list[str]] | None
    #: erasures that wait for a batch, per kind
    pending: Mapping[str, int]
    active_training_run: str | None
    #: null without a production version
    drift: DriftView | None
    #: of the production version's anchor; null where the policy asks for none
    margins: MarginsView | None


class ModelView(Answer):
    """A model."""

    name: str
    dataset: str
    #: preparing: a worker has not built the network yet; invalid: see `error`; withdrawn: nothing
    #: is served any more; purged: all its versions are destroyed
    status: Word[ModelStatus]
    error: str | None
    architecture: Mapping[str, Any]
    transform: Mapping[str, Any]
    recipe: Mapping[str, Any]
    policy: Mapping[str, Any]
    #: number of the production version
    production: int | None
    run_now_at: datetime | None
    created_at: datetime
    withdrawn_at: datetime | None
    purged_at: datetime | None


class Policy(Given):
    """Everything that a model's owner decides about its unlearning."""

    #: the unlearning method
    method: str | None = None
    #: the method's options
    options: Mapping[str, Any] | None = None
    #: a batch closes when it has this many records
    max_records: int | None = None
    #: or when its oldest erasure has waited this long
    max_wait_seconds: float | None = None
    #: undo window: so long after a request was accepted nothing of it is begun, and it can be
    #: cancelled; of several models the longest counts
    hold_seconds: float | None = None
    #: tried in turn when a version fails its verification
    fallbacks: Sequence[MethodChoice | Mapping[str, Any]] | None = None
    #: changes to the default gates of the verification
    gates: Mapping[str, Any] | None = None
    #: promote, marked, a version whose batch is too small to judge
    promote_without_power: bool | None = None
    #: what becomes of a version whose batch is too small to judge, if the base version answers the
    #: batch's records right far above never-seen ones (gates.memorised_gap) and the version is not
    #: seen to have stopped: next_method tries the next method, and holds the version if there is
    #: none; hold waits for further requests to be judged with, or for approval, until
    #: hold_margin_days before the first of its requests is due, then it goes live, marked; promote
    #: does not wait. An exact version goes live
    on_memorised: Literal["next_method", "hold", "promote"] | None = None
    #: what becomes of a retrained version that lost more accuracy than the gates allow and fails
    #: nothing else: hold waits for approval until hold_margin_days before the first of its
    #: requests is due, then it goes live; promote does not wait
    on_accuracy_drop: Literal["hold", "promote"] | None = None
    #: how long before the due date a hold ends by itself
    hold_margin_days: float | None = None
    drift: Drift | Mapping[str, Any] | None = None
    #: retrain in the background when the drift budget is spent
    auto_consolidate: bool | None = None
    #: train in the background when the dataset has grown by this
    auto_train: AutoTrain | Mapping[str, Any] | None = None
    #: from retiring a version to its destruction
    purge_after_seconds: int | None = None
    #: models trained in the background to calibrate attacks; 1 counts as 2, since each of them
    #: leaves out half of the rows
    reference_models: int | None = None
    #: models trained in the background with which the linear probe of a forgotten class is
    #: compared; the classes are divided among them, each leaves out its share whole; 1 counts as
    #: 2, and more than there are classes as one for each
    class_references: int | None = None
    #: margins of training rows under models that never saw them, computed in the background: a
    #: split of k folds costs about k - 1 trainings, and lets iau forget what the model knows by
    #: heart
    margins: Margins | Mapping[str, Any] | None = None
    #: training keeps the log of updates that some methods need
    keep_update_log: bool | None = None
    #: cap of that log
    update_log_megabytes: int | None = None
    approval: Approval | Mapping[str, Any] | None = None


class RunNowView(Answer):
    """The method of the next batch, and the erasures that wait for it."""

    model: str
    run_now_at: datetime
    #: null: the policy's; an exact one without a request for it: the live version forgot a class,
    #: which only a retraining is sure not to bring back
    method: str | None
    #: erasures that wait for it, per kind
    pending: Mapping[str, int]


class TransformGiven(Given):
    """From stored values to the input: (x · scale − mean) / std, per channel or feature."""

    #: left out: 1/255 for images of bytes, 1 for tables and floats
    scale: float | None = None
    #: left out: 0
    mean: Sequence[float] | None = None
    #: left out: 1
    std: Sequence[float] | None = None
