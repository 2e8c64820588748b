"""Erasures: one request's share of the work on one model, and the request's own end."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import and_, delete, exists, or_, select, update
from sqlalchemy.orm import Session

from service.ledger import audit
from service.ledger.states import (
    ERASURE_MOVES,
    REQUEST_MOVES,
    ErasureStatus,
    RequestStatus,
    RunStatus,
    VersionStatus,
    check_move,
)
from service.ledger.tables import (
    Dataset,
    DeletionRequest,
    Erasure,
    Model,
    Record,
    RequestDataset,
    RequestRecord,
    TrainingRun,
    Version,
)

#: A statement takes a limited number of values on both databases.
ROWS_AT_ONCE = 10_000


def claim(erasure: Erasure, *, batch_id: str) -> None:
    """It is in a running batch and can no longer be cancelled."""
    _move(erasure, ErasureStatus.CLAIMED)
    erasure.batch_id = batch_id


def complete(erasure: Erasure, *, version_id: int | None, now: datetime) -> None:
    """The version that goes live does not contain its records; None: nothing is live any more."""
    _move(erasure, ErasureStatus.COMPLETED)
    erasure.version_id = version_id
    erasure.completed_at = now
    erasure.error = None


def release(
    erasure: Erasure,
    *,
    attempts: int = 0,
    not_before: datetime | None = None,
    cohort: str | None = None,
    error: str | None = None,
) -> None:
    """Back in the queue, with what its last batch taught."""
    _move(erasure, ErasureStatus.PENDING)
    erasure.batch_id = None
    erasure.attempts = attempts
    erasure.not_before = not_before
    erasure.cohort = cohort or erasure.cohort
    erasure.error = error


def put_aside(session: Session, erasure: Erasure, *, error: str, actor: str) -> None:
    """It fails even alone: an operator must look; the others go on without it."""
    _move(erasure, ErasureStatus.NEEDS_REVIEW)
    erasure.error = error
    request = session.get_one(DeletionRequest, erasure.request_id)
    if request.status != RequestStatus.NEEDS_REVIEW:
        check_move(REQUEST_MOVES, request.status, RequestStatus.NEEDS_REVIEW)
        request.status = RequestStatus.NEEDS_REVIEW
    request.status_reason = f"{error}; {_ways_out(session, erasure)}"
    session.flush()
    audit.append(
        session,
        actor=actor,
        action=audit.Action.DELETION_REQUEST_NEEDS_REVIEW,
        subject=f"deletion_request:{erasure.request_id}",
        data={},
    )


def _ways_out(session: Session, erasure: Erasure) -> str:
    model = session.get_one(Model, erasure.model_id)
    return (
        f"try it again (POST /v1/deletion-requests/{erasure.request_id}:retry) once the cause is "
        "mended; where nothing of the model can remain, withdraw it "
        f"(POST /v1/models/{model.name}:withdraw), which completes the request"
    )


def requests_without_models(session: Session) -> Sequence[tuple[str, int]]:
    """(request, dataset) of what no model has to forget: no batch will exclude the records.

    The requests are locked: whoever cancels one must come before or after, not between. A request
    over every dataset is listed with each dataset that has no model, whatever the others have.
    """
    _drop_needless(session)
    of_one = session.execute(
        select(DeletionRequest.id, DeletionRequest.dataset_id)
        .where(
            DeletionRequest.status == RequestStatus.ACCEPTED,
            DeletionRequest.dataset_id.is_not(None),
            ~exists().where(Erasure.request_id == DeletionRequest.id),
        )
        .order_by(DeletionRequest.id)
        .with_for_update(skip_locked=True)
    )
    of_every = session.execute(
        select(DeletionRequest.id, RequestDataset.dataset_id)
        .join(RequestDataset, RequestDataset.request_id == DeletionRequest.id)
        .where(
            DeletionRequest.status.in_([RequestStatus.ACCEPTED, RequestStatus.PROCESSING]),
            ~exists().where(
                Erasure.request_id == DeletionRequest.id,
                Model.id == Erasure.model_id,
                Model.dataset_id == RequestDataset.dataset_id,
            ),
            or_(
                exists().where(
                    RequestRecord.request_id == DeletionRequest.id,
                    RequestRecord.dataset_id == RequestDataset.dataset_id,
                    Record.dataset_id == RequestRecord.dataset_id,
                    Record.row == RequestRecord.row,
                    Record.excluded_revision.is_(None),
                ),
                # Other requests have excluded them all: this one must still move on.
                and_(
                    DeletionRequest.status == RequestStatus.ACCEPTED,
                    ~exists().where(Erasure.request_id == DeletionRequest.id),
                ),
            ),
        )
        .order_by(DeletionRequest.id, RequestDataset.dataset_id)
        .with_for_update(of=DeletionRequest, skip_locked=True)
    )
    return [(request_id, dataset_id) for request_id, dataset_id in (*of_one, *of_every)]


def _drop_needless(session: Session) -> None:
    """Take away the shares of models whose first training failed: they learned nothing.

    Should such a model be trained after all, it starts without the records.
    """
    learned = exists().where(Version.model_id == Erasure.model_id)
    learning = exists().where(
        TrainingRun.model_id == Erasure.model_id,
        TrainingRun.status.in_([RunStatus.QUEUED, RunStatus.RUNNING]),
    )
    session.execute(
        delete(Erasure)
        .where(Erasure.status == ErasureStatus.PENDING, ~learned, ~learning)
        .execution_options(synchronize_session=False)
    )


def exclude(session: Session, dataset_id: int, requests: Sequence[str]) -> int:
    """Take the requests' records out of all training from now on; the dataset's new revision."""
    revision = session.execute(
        update(Dataset)
        .where(Dataset.id == dataset_id)
        .values(revision=Dataset.revision + 1)
        .returning(Dataset.revision)
        .execution_options(synchronize_session=False)
    ).scalar_one()
    theirs = exists().where(
        RequestRecord.request_id.in_(requests),
        RequestRecord.dataset_id == Record.dataset_id,
        RequestRecord.row == Record.row,
    )
    session.execute(
        update(Record)
        .where(Record.dataset_id == dataset_id, Record.excluded_revision.is_(None), theirs)
        .values(excluded_revision=revision)
        .execution_options(synchronize_session=False)
    )
    return int(revision)


def erasable_rows(session: Session, dataset: Dataset) -> list[int]:
    """Rows whose raw data no model needs any more and that still stand in the array."""
    still_needed = exists().where(
        RequestRecord.dataset_id == Record.dataset_id,
        RequestRecord.row == Record.row,
        Erasure.request_id == RequestRecord.request_id,
        Erasure.status.in_(
            [ErasureStatus.PENDING, ErasureStatus.CLAIMED, ErasureStatus.NEEDS_REVIEW]
        ),
    )
    # A model that is being trained, or was and still owes deletions, has seen the row: its
    # gradient at the new weights is needed to forget it.
    in_training = exists().where(
        TrainingRun.model_id == Model.id,
        Model.dataset_id == Record.dataset_id,
        TrainingRun.status == RunStatus.RUNNING,
        TrainingRun.data_revision < Record.excluded_revision,
    )
    in_candidate = exists().where(
        Version.model_id == Model.id,
        Model.dataset_id == Record.dataset_id,
        Version.status == VersionStatus.CANDIDATE,
        Version.anchor_id == Version.id,
        Version.data_revision < Record.excluded_revision,
    )
    rows = session.scalars(
        select(Record.row)
        .where(
            Record.dataset_id == dataset.id,
            Record.excluded_revision.is_not(None),
            Record.erased_at.is_(None),
            ~still_needed,
            ~in_training,
            ~in_candidate,
        )
        .order_by(Record.row)
    )
    return list(rows)


def mark_erased(
    session: Session, dataset: Dataset, rows: Sequence[int], *, now: datetime, actor: str
) -> None:
    """The rows were overwritten in the array, and the file was flushed.

    Of two workers that overwrote the same rows the first one says so.
    """
    marked = 0
    for first in range(0, len(rows), ROWS_AT_ONCE):
        here = rows[first : first + ROWS_AT_ONCE]
        changed = session.execute(
            update(Record)
            .where(
                Record.dataset_id == dataset.id, Record.row.in_(here), Record.erased_at.is_(None)
            )
            .values(erased_at=now)
            .returning(Record.row)
            .execution_options(synchronize_session=False)
        )
        marked += len(changed.all())
    if marked:
        audit.append(
            session,
            actor=actor,
            action=audit.Action.RECORDS_ERASED,
            subject=f"dataset:{dataset.name}",
            data={"rows": marked},
        )


def settle(session: Session, *, now: datetime, actor: str) -> list[str]:
    """Complete every request whose erasures are all done and whose raw rows are all erased."""
    unfinished = exists().where(
        Erasure.request_id == DeletionRequest.id,
        or_(
            Erasure.status == ErasureStatus.PENDING,
            Erasure.status == ErasureStatus.CLAIMED,
            Erasure.status == ErasureStatus.NEEDS_REVIEW,
        ),
    )
    standing = exists().where(
        RequestRecord.request_id == DeletionRequest.id,
        Record.dataset_id == RequestRecord.dataset_id,
        Record.row == RequestRecord.row,
        Record.erased_at.is_(None),
    )
    done = session.scalars(
        select(DeletionRequest)
        .where(DeletionRequest.status == RequestStatus.PROCESSING, ~unfinished, ~standing)
        .order_by(DeletionRequest.id)
        .with_for_update(skip_locked=True)
    ).all()
    for request in done:
        check_move(REQUEST_MOVES, request.status, RequestStatus.COMPLETED)
        request.status = RequestStatus.COMPLETED
        request.status_reason = None
        request.completed_at = now
    if done:
        session.flush()
        audit.append_many(
            session,
            actor=actor,
            lines=[
                audit.Line(
                    audit.Action.DELETION_REQUEST_COMPLETED, f"deletion_request:{request.id}"
                )
                for request in done
            ],
        )
    return [request.id for request in done]


def _move(erasure: Erasure, new: ErasureStatus) -> None:
    check_move(ERASURE_MOVES, erasure.status, new)
    erasure.status = new
