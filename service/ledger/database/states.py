"""The states of every kind of row, explained in a line each, and the allowed moves between them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

from service.errors import Conflict


class IllegalMove(Conflict):
    """A change of state that the ledger does not allow."""

    code = "illegal-move"


class DatasetStatus(StrEnum):
    """A dataset, from accepted to destroyed."""

    INGESTING = "ingesting"  # accepted; a worker reads the source
    READY = "ready"  # every row is in the store and has a record
    FAILED = "failed"  # the source was refused; nothing of it is stored
    WITHDRAWN = "withdrawn"  # out of service for good; its rows are being overwritten
    PURGED = "purged"  # every row is overwritten and removed; the name remains as history


class AppendStatus(StrEnum):
    """Rows that are added to a dataset that is ready."""

    WAITING = "waiting"  # a worker reads the source
    COMPLETED = "completed"  # every row is in the store and has a record
    FAILED = "failed"  # the source was refused; nothing of it is stored
    CANCELLED = "cancelled"  # the dataset was withdrawn before it was completed


class ModelStatus(StrEnum):
    """A model as its owner sees it; derived from its row."""

    PREPARING = "preparing"  # a worker has not built the network yet
    READY = "ready"  # it can be trained and unlearned
    INVALID = "invalid"  # the network cannot be built; the error says why
    WITHDRAWN = "withdrawn"  # out of service for good; never served, trained or imported again
    PURGED = "purged"  # all its versions are destroyed; the rows remain as history


class EncoderStatus(StrEnum):
    """An encoder that was trained elsewhere."""

    CHECKING = "checking"  # a worker reads its directory
    READY = "ready"  # models can be built on it
    FAILED = "failed"  # its files were refused; the error says why


class InspectionStatus(StrEnum):
    """A dry run of an ingest."""

    WAITING = "waiting"  # a worker reads the source
    DONE = "done"  # the source could be ingested; what was found is shown
    REFUSED = "refused"  # it could not; the error says why


class RunStatus(StrEnum):
    """A training run."""

    QUEUED = "queued"  # waits for a worker
    RUNNING = "running"  # a worker holds its lease
    COMPLETED = "completed"  # its version is registered
    FAILED = "failed"  # gave up after its last attempt; the error says why
    CANCELLED = "cancelled"  # stopped on request; its kept state is destroyed


class VersionStatus(StrEnum):
    """One immutable set of weights."""

    CANDIDATE = "candidate"  # registered; to be judged or measured, or still owing deletions
    PUBLISHED = "published"  # is, or may become again, the production version
    REJECTED = "rejected"  # verification failed, or the import was refused; never promoted
    RETIRED = "retired"  # carries erased data; no longer served
    WITHDRAWN = "withdrawn"  # out of service for good, by an operator
    PURGED = "purged"  # the weights are destroyed; the row remains as history


class RequestStatus(StrEnum):
    """A deletion request as its client sees it."""

    AWAITING_APPROVAL = "awaiting_approval"  # over the policy's limit; a person must approve
    ACCEPTED = "accepted"  # recorded; no worker has claimed any of it
    PROCESSING = "processing"  # at least one erasure was claimed; can no longer be cancelled
    COMPLETED = "completed"  # no live model and no stored row holds the records any more
    NO_MATCH = "no_match"  # nothing in the dataset matched; nothing to do
    CANCELLED = "cancelled"  # by its client, before it was claimed
    DENIED = "denied"  # refused by the person asked to approve
    NEEDS_REVIEW = "needs_review"  # failed repeatedly, alone; retry it, or withdraw its model


class ErasureStatus(StrEnum):
    """One request's share of the work on one model."""

    PENDING = "pending"  # waits for a batch
    CLAIMED = "claimed"  # in the running batch
    COMPLETED = "completed"  # production is a version without these records, or nothing is live
    CANCELLED = "cancelled"  # its request was cancelled or denied
    NEEDS_REVIEW = "needs_review"  # failed alone; an operator must look


class BatchStatus(StrEnum):
    """Erasures of one model that are unlearned together."""

    RUNNING = "running"  # a worker holds the model's lease, or must take it over
    HELD = "held"  # its version waits for approval, or the due date (batches.holds)
    COMPLETED = "completed"  # its version was promoted
    FAILED = "failed"  # given up; its erasures were handed back


class WebhookStatus(StrEnum):
    """A receiver of events."""

    ACTIVE = "active"  # it is told of every event, from where it stopped on
    DISABLED = "disabled"  # nothing is sent; it keeps its place in the audit chain


State = TypeVar("State", bound=StrEnum)

REQUEST_MOVES: Mapping[RequestStatus, frozenset[RequestStatus]] = {
    RequestStatus.AWAITING_APPROVAL: frozenset(
        {
            RequestStatus.ACCEPTED,
            RequestStatus.DENIED,
            RequestStatus.CANCELLED,
            RequestStatus.PROCESSING,  # its dataset is withdrawn: the rows are destroyed anyway
        }
    ),
    RequestStatus.ACCEPTED: frozenset(
        {RequestStatus.PROCESSING, RequestStatus.COMPLETED, RequestStatus.CANCELLED}
    ),
    RequestStatus.PROCESSING: frozenset({RequestStatus.COMPLETED, RequestStatus.NEEDS_REVIEW}),
    RequestStatus.NEEDS_REVIEW: frozenset({RequestStatus.PROCESSING}),
    RequestStatus.COMPLETED: frozenset(),
    RequestStatus.NO_MATCH: frozenset(),
    RequestStatus.CANCELLED: frozenset(),
    RequestStatus.DENIED: frozenset(),
}

ERASURE_MOVES: Mapping[ErasureStatus, frozenset[ErasureStatus]] = {
    ErasureStatus.PENDING: frozenset(
        {ErasureStatus.CLAIMED, ErasureStatus.COMPLETED, ErasureStatus.CANCELLED}
    ),
    ErasureStatus.CLAIMED: frozenset(
        {ErasureStatus.COMPLETED, ErasureStatus.PENDING, ErasureStatus.NEEDS_REVIEW}
    ),
    ErasureStatus.NEEDS_REVIEW: frozenset({ErasureStatus.PENDING, ErasureStatus.COMPLETED}),
    ErasureStatus.COMPLETED: frozenset(),
    ErasureStatus.CANCELLED: frozenset(),
}

VERSION_MOVES: Mapping[VersionStatus, frozenset[VersionStatus]] = {
    VersionStatus.CANDIDATE: frozenset(
        {
            VersionStatus.PUBLISHED,
            VersionStatus.REJECTED,
            VersionStatus.RETIRED,
            VersionStatus.WITHDRAWN,
        }
    ),
    VersionStatus.PUBLISHED: frozenset({VersionStatus.RETIRED, VersionStatus.WITHDRAWN}),
    VersionStatus.REJECTED: frozenset(
        {VersionStatus.RETIRED, VersionStatus.WITHDRAWN, VersionStatus.PURGED}
    ),
    VersionStatus.RETIRED: frozenset({VersionStatus.WITHDRAWN, VersionStatus.PURGED}),
    VersionStatus.WITHDRAWN: frozenset({VersionStatus.PURGED}),
    VersionStatus.PURGED: frozenset(),
}

DATASET_MOVES: Mapping[DatasetStatus, frozenset[DatasetStatus]] = {
    DatasetStatus.INGESTING: frozenset(
        {DatasetStatus.READY, DatasetStatus.FAILED, DatasetStatus.WITHDRAWN}
    ),
    DatasetStatus.READY: frozenset({DatasetStatus.WITHDRAWN}),
    # Created again under its name; nothing of the refused source is kept.
    DatasetStatus.FAILED: frozenset({DatasetStatus.INGESTING, DatasetStatus.WITHDRAWN}),
    DatasetStatus.WITHDRAWN: frozenset({DatasetStatus.PURGED}),
    DatasetStatus.PURGED: frozenset(),
}

APPEND_MOVES: Mapping[AppendStatus, frozenset[AppendStatus]] = {
    AppendStatus.WAITING: frozenset(
        {AppendStatus.COMPLETED, AppendStatus.FAILED, AppendStatus.CANCELLED}
    ),
    AppendStatus.COMPLETED: frozenset(),
    AppendStatus.FAILED: frozenset(),
    AppendStatus.CANCELLED: frozenset(),
}

BATCH_MOVES: Mapping[BatchStatus, frozenset[BatchStatus]] = {
    BatchStatus.RUNNING: frozenset({BatchStatus.HELD, BatchStatus.COMPLETED, BatchStatus.FAILED}),
    BatchStatus.HELD: frozenset({BatchStatus.HELD, BatchStatus.COMPLETED, BatchStatus.FAILED}),
    BatchStatus.COMPLETED: frozenset(),
    BatchStatus.FAILED: frozenset(),
}

RUN_MOVES: Mapping[RunStatus, frozenset[RunStatus]] = {
    RunStatus.QUEUED: frozenset({RunStatus.RUNNING, RunStatus.FAILED, RunStatus.CANCELLED}),
    # Running again: the previous worker did not return.
    RunStatus.RUNNING: frozenset(
        {
            RunStatus.RUNNING,
            RunStatus.QUEUED,
            RunStatus.COMPLETED,
            RunStatus.FAILED,
            RunStatus.CANCELLED,
        }
    ),
    RunStatus.COMPLETED: frozenset(),
    RunStatus.FAILED: frozenset(),
    RunStatus.CANCELLED: frozenset(),
}

ENCODER_MOVES: Mapping[EncoderStatus, frozenset[EncoderStatus]] = {
    EncoderStatus.CHECKING: frozenset({EncoderStatus.READY, EncoderStatus.FAILED}),
    EncoderStatus.READY: frozenset(),
    EncoderStatus.FAILED: frozenset({EncoderStatus.CHECKING}),
}

INSPECTION_MOVES: Mapping[InspectionStatus, frozenset[InspectionStatus]] = {
    InspectionStatus.WAITING: frozenset({InspectionStatus.DONE, InspectionStatus.REFUSED}),
    InspectionStatus.DONE: frozenset(),
    InspectionStatus.REFUSED: frozenset(),
}

WEBHOOK_MOVES: Mapping[WebhookStatus, frozenset[WebhookStatus]] = {
    WebhookStatus.ACTIVE: frozenset({WebhookStatus.DISABLED}),
    WebhookStatus.DISABLED: frozenset({WebhookStatus.ACTIVE}),
}

#: Moves of requests that a check found not done; only the reconciler makes them.
REOPENED_REQUESTS: Mapping[RequestStatus, frozenset[RequestStatus]] = {
    RequestStatus.COMPLETED: frozenset({RequestStatus.PROCESSING})
}
REOPENED_ERASURES: Mapping[ErasureStatus, frozenset[ErasureStatus]] = {
    ErasureStatus.COMPLETED: frozenset({ErasureStatus.PENDING})
}

#: States in which requests do not change any more, unless the reconciler opens them again.
REQUEST_ENDS = frozenset(status for status, nexts in REQUEST_MOVES.items() if not nexts)


def check_move(moves: Mapping[State, frozenset[State]], old: State, new: State) -> None:
    """Raise ``IllegalMove`` unless ``new`` may follow ``old``."""
    if new not in moves[old]:
        raise IllegalMove(f"this is {old}; it cannot become {new}")
