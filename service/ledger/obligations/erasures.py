"""Erasures, one request's share of the work on one model, and the completion of requests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    and_,
    exists,
    false,
    func,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from service.ledger.audit import chain, machines
from service.ledger.database import db, locks, taken
from service.ledger.database.states import (
    BatchStatus,
    DatasetStatus,
    ErasureStatus,
    IllegalMove,
    RequestStatus,
    RunStatus,
    VersionStatus,
)
from service.ledger.database.tables import (
    Artifact,
    Batch,
    BatchState,
    Dataset,
    DeletionRequest,
    Erasure,
    Exclusion,
    Model,
    Record,
    RequestDataset,
    RequestRecord,
    TrainingRun,
    Version,
)
from service.ledger.obligations import legal, shares
from service.ledger.selection import exclusions, naming
from service.ledger.selection.naming import Names

OPEN, is_open = shares.OPEN, shares.is_open

#: A statement takes a limited number of values on both databases.
ROWS_AT_ONCE = 10_000


#: The shortest time between two moments.
_MOMENT = timedelta(microseconds=1)

#: Members of a batch whose ids differ by at most this much lie in one range.
_GAP = 100
#: Largest number of ranges of a batch: SQLite takes fewer than 1,000 in one condition.
_RANGES = 500


def claim(session: Session, model: Model, members: Sequence[Erasure], *, batch_id: str) -> None:
    """Assign the model's erasures to a running batch; their requests can no longer be cancelled.

    One statement for all erasures and one for all requests. The caller has loaded and locked these.
    """
    claimed = session.scalars(
        machines.erasures.update(session, ErasureStatus.CLAIMED, batch_id=batch_id)
        .where(
            Erasure.model_id == model.id,
            is_open(),
            db.close_together(Erasure.id, [one.id for one in members]),
        )
        .returning(Erasure.id)
        .execution_options(synchronize_session=False)
    ).all()
    if len(claimed) != len(members):
        raise IllegalMove("an erasure of this batch does not wait for one any more")
    for one in members:
        set_committed_value(one, "status", ErasureStatus.CLAIMED)
        set_committed_value(one, "batch_id", batch_id)
    # A request that needs review because of another model keeps that state until it is retried.
    accepted = [one.request for one in members if one.request.status == RequestStatus.ACCEPTED]
    if not accepted:
        return
    session.execute(
        machines.requests.update(session, RequestStatus.PROCESSING)
        .where(
            DeletionRequest.is_open,
            db.close_together(DeletionRequest.id, [one.id for one in accepted]),
        )
        .execution_options(synchronize_session=False)
    )
    for request in accepted:
        set_committed_value(request, "status", RequestStatus.PROCESSING)


def ranges(members: Iterable[Erasure]) -> list[list[int]]:
    """Return ``[[first, last], …]``: ranges of ids that together include those of the members.

    Gaps longer than ``_GAP`` separate them; of too many for ``_RANGES`` only the longest do.
    """
    found: list[list[int]] = []
    for one in sorted(one.id for one in members):
        if found and one - found[-1][1] <= _GAP:
            found[-1][1] = one
        else:
            found.append([one, one])
    if len(found) <= _RANGES:
        return found
    gaps = range(1, len(found))
    longest = sorted(gaps, key=lambda n: found[n][0] - found[n - 1][1])[-(_RANGES - 1) :]
    ends = [0, *sorted(longest), len(found)]
    return [[found[first][0], found[last - 1][1]] for first, last in pairwise(ends)]


def of_batch(batch: Batch) -> ColumnElement[bool]:
    """Return SQL: ``Erasure`` belongs to the batch."""
    belongs = Erasure.batch_id == batch.id
    if batch.members is None:
        return belongs
    near = (Erasure.id.between(first, last) for first, last in batch.members)
    return and_(belongs, or_(false(), *near))


def complete(erasure: Erasure, *, version_id: int | None, now: datetime) -> None:
    """Complete the erasure with the version that goes live; None: nothing is live any more."""
    machines.erasures.move(erasure, ErasureStatus.COMPLETED)
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
    """Return the erasure to the queue, with the attempts and the error of its last batch."""
    machines.erasures.move(erasure, ErasureStatus.PENDING)
    erasure.batch_id = None
    erasure.attempts = attempts
    erasure.not_before = not_before
    erasure.cohort = cohort or erasure.cohort
    erasure.error = error


def put_aside(session: Session, erasure: Erasure, *, error: str, actor: str) -> None:
    """Mark an erasure that fails even alone for review by an operator."""
    machines.erasures.move(erasure, ErasureStatus.NEEDS_REVIEW)
    erasure.error = error
    request = session.get_one(DeletionRequest, erasure.request_id)
    if request.status != RequestStatus.NEEDS_REVIEW:
        machines.requests.move(request, RequestStatus.NEEDS_REVIEW)
    request.status_reason = f"{error}; {_ways_out(session, erasure)}"
    session.flush()
    chain.append(
        session,
        actor=actor,
        action=chain.Action.DELETION_REQUEST_NEEDS_REVIEW,
        subject=f"deletion_request:{erasure.request_id}",
        data={},
    )


def _ways_out(session: Session, erasure: Erasure) -> str:
    model = session.get_one(Model, erasure.model_id)
    return (
        f"try it again (POST /v1/deletion-requests/{erasure.request_id}:retry) once the cause is "
        "fixed; if nothing of the model can be retained, withdraw it "
        f"(POST /v1/models/{model.name}:withdraw), which completes the request"
    )


def datasets_without_work(session: Session, *, now: datetime) -> Sequence[int]:
    """Return datasets with requests that no model has to do, ascending.

    No batch will exclude their records. A request over every dataset counts in each one that has no
    model, whether or not others have one; not before the undo window of the others has passed.
    """
    of_one = select(DeletionRequest.dataset_id).where(_without_models())
    of_every = (
        select(RequestDataset.dataset_id)
        .join(DeletionRequest, DeletionRequest.id == RequestDataset.request_id)
        .where(_without_models_here(now))
    )
    waiting = (
        select(Model.dataset_id)
        .join(Erasure, Erasure.model_id == Model.id)
        .where(shares.needless())
    )
    return sorted(set(session.scalars(of_one.union(of_every, waiting))))


def exclude_without_models(
    session: Session, dataset_id: int, *, now: datetime, actor: str
) -> list[str]:
    """Exclude the records of requests that concern no model of a dataset from all training.

    Return the requests' ids.
    """
    locks.dataset(session, dataset_id, locks.Hold.REVISION)
    shares.drop_needless(session, dataset_id)
    here = exists().where(
        RequestDataset.request_id == DeletionRequest.id,
        RequestDataset.dataset_id == dataset_id,
        _without_models_here(now),
    )
    requests = session.scalars(
        select(DeletionRequest)
        .where(or_(and_(DeletionRequest.dataset_id == dataset_id, _without_models()), here))
        .order_by(DeletionRequest.id)
        # A cancellation must come before or after, not in between.
        .with_for_update(key_share=True, skip_locked=True)
        .execution_options(populate_existing=True)
    ).all()
    begun = [request for request in requests if request.status == RequestStatus.ACCEPTED]
    for request in begun:
        machines.requests.move(request, RequestStatus.PROCESSING)
    session.flush()
    chain.append_many(
        session,
        actor=actor,
        lines=[
            chain.Line(chain.Action.DELETION_REQUEST_EXCLUDED, f"deletion_request:{one.id}")
            for one in begun
        ],
    )
    found = [request.id for request in requests]
    if found:
        exclude(session, dataset_id, Names.of(requests))
    return found


def _without_models() -> ColumnElement[bool]:
    """Return SQL: ``DeletionRequest`` is accepted, of one dataset, and concerns no model."""
    return and_(
        DeletionRequest.is_open,
        db.among(DeletionRequest.status, RequestStatus.ACCEPTED),
        DeletionRequest.legal_hold_id.is_(None),
        DeletionRequest.dataset_id.is_not(None),
        ~exists().where(Erasure.request_id == DeletionRequest.id),
    )


def _without_models_here(now: datetime) -> ColumnElement[bool]:
    """Return SQL: ``DeletionRequest`` waits here and concerns no model of ``RequestDataset``."""
    share_here = exists().where(
        Erasure.request_id == DeletionRequest.id,
        Model.id == Erasure.model_id,
        Model.dataset_id == RequestDataset.dataset_id,
    )
    not_excluded = exists().where(
        RequestRecord.request_id == DeletionRequest.listed_by,
        RequestRecord.dataset_id == RequestDataset.dataset_id,
        Record.dataset_id == RequestRecord.dataset_id,
        Record.row == RequestRecord.row,
        Record.excluded_revision.is_(None),
    )
    # Other requests may have excluded all its records: it must still complete.
    stuck = and_(
        db.among(DeletionRequest.status, RequestStatus.ACCEPTED),
        ~exists().where(Erasure.request_id == DeletionRequest.id),
    )
    in_undo_window = exists().where(
        Erasure.request_id == DeletionRequest.id,
        db.among(Erasure.status, ErasureStatus.PENDING),
        Erasure.attempts == 0,
        ~shares.may_begin(now),
    )
    return and_(
        DeletionRequest.is_open,
        db.among(DeletionRequest.status, RequestStatus.ACCEPTED, RequestStatus.PROCESSING),
        DeletionRequest.legal_hold_id.is_(None),
        ~share_here,
        ~in_undo_window,
        or_(not_excluded, stuck),
    )


@dataclass(frozen=True)
class Excluded:
    """What was excluded at a revision of a dataset: (row, label, split, erased_at) of each."""

    revision: int
    records: Sequence[Row[int, int, int, datetime | None]]


def exclude(session: Session, dataset_id: int, names: Names) -> Excluded:
    """Exclude the named records from all training from now on; return those newly excluded."""
    revision = session.execute(
        update(Dataset)
        .where(Dataset.id == dataset_id)
        .values(revision=Dataset.revision + 1)
        .returning(Dataset.revision)
        .execution_options(synchronize_session=False)
    ).scalar_one()
    locked = locks.locked_dataset(session, dataset_id)
    if locked is not None:
        set_committed_value(locked, "revision", revision)
    records: list[Row[int, int, int, datetime | None]] = []
    for theirs in naming.named(names):
        records += session.execute(
            update(Record)
            .where(Record.dataset_id == dataset_id, Record.excluded_revision.is_(None), theirs)
            .values(excluded_revision=revision)
            .returning(Record.row, Record.label, Record.split, Record.erased_at)
            .execution_options(synchronize_session=False)
        )
    rows = sorted(one.row for one in records)
    taken.keep(session, ("just excluded", dataset_id), (revision, rows))
    return Excluded(int(revision), records)


def just_excluded(
    session: Session, dataset_id: int, *, after: int, revision: int
) -> list[int] | None:
    """Return rows excluded between two revisions, if this transaction has excluded them itself.

    None: they must be read.
    """
    kept: tuple[int, list[int]] | None = taken.find(session, ("just excluded", dataset_id))
    return kept[1] if kept is not None and kept[0] == revision == after + 1 else None


@dataclass(frozen=True)
class ToErase:
    """A dataset in which something may have to be erased.

    ``stands``: it has excluded rows that are not erased. ``has_margins``: margins of its rows are
    stored. ``has_statistics``: so are sums over its rows of versions from which no batch starts
    any more.
    """

    dataset: Dataset
    stands: bool
    has_margins: bool
    has_statistics: bool


def to_erase(session: Session) -> list[ToErase]:
    """Return datasets with excluded rows that are not erased, and withdrawn datasets."""
    # Select the first such row instead of EXISTS: with old statistics the planner may expect any
    # row to match, and would scan them all.
    first = exclusions.standing(Dataset.id).order_by(Exclusion.row).limit(literal_column("1"))
    some = first.scalar_subquery().is_not(None)
    withdrawn = db.among(Dataset.status, DatasetStatus.WITHDRAWN)
    ready = and_(db.among(Dataset.status, DatasetStatus.READY), some)
    has_margins = exists().where(
        db.among(Artifact.kind, "margins"),
        Artifact.destroyed_at.is_(None),
        Version.id == Artifact.version_id,
        Model.id == Version.model_id,
        Model.dataset_id == Dataset.id,
    )
    has_statistics = outdated_statistics().where(Model.dataset_id == Dataset.id).exists()
    found = session.execute(
        select(Dataset, some, has_margins, has_statistics)
        .where(or_(ready, withdrawn))
        .order_by(Dataset.id)
    )
    return [ToErase(*one) for one in found]


def outdated_statistics() -> Select[Artifact]:
    """Select stored statistics of versions from which no batch starts any more.

    They are sums over the rows: less those of the version that followed, they are the rows that
    this one forgot.
    """
    over = (VersionStatus.RETIRED, VersionStatus.REJECTED, VersionStatus.WITHDRAWN)
    return (
        select(Artifact)
        .join(Version, Version.id == Artifact.version_id)
        .join(Model, Model.id == Version.model_id)
        .where(
            db.among(Artifact.kind, "statistics"),
            Artifact.destroyed_at.is_(None),
            db.among(Version.status, *over),
        )
    )


def outdated_statistics_of(session: Session, version_id: int) -> list[int]:
    """Return ids of the outdated statistics of one version."""
    wanted = outdated_statistics().where(Version.id == version_id)
    return [one.id for one in session.scalars(wanted)]


def erasable(dataset: Dataset) -> ColumnElement[bool]:
    """Return SQL: ``Record`` stands in the dataset's array, and no model needs its raw data."""
    still_needed = naming.asked(shares.is_open_of_request())
    # A model that is being trained, or was and still owes deletions, has seen the row: to
    # forget it, its gradient at the new weights is needed.
    in_training = exists().where(
        TrainingRun.model_id == Model.id,
        Model.dataset_id == Record.dataset_id,
        or_(
            TrainingRun.status == RunStatus.RUNNING,
            # Interrupted: it will resume from a state that has seen the row.
            and_(TrainingRun.status == RunStatus.QUEUED, TrainingRun.state_digest.is_not(None)),
        ),
        TrainingRun.data_revision < Record.excluded_revision,
    )
    in_batch = exists().where(
        BatchState.batch_id == Batch.id,
        db.among(Batch.status, BatchStatus.RUNNING),
        ~BatchState.given_up,
        Model.id == Batch.model_id,
        Model.dataset_id == Record.dataset_id,
        BatchState.data_revision < Record.excluded_revision,
    )
    in_candidate = exists().where(
        Version.model_id == Model.id,
        Model.dataset_id == Record.dataset_id,
        db.among(Version.status, VersionStatus.CANDIDATE),
        Version.anchor_id == Version.id,
        Version.data_revision < Record.excluded_revision,
    )
    return and_(
        Record.dataset_id == dataset.id,
        Record.row.in_(exclusions.standing(dataset.id)),
        ~still_needed,
        ~in_training,
        ~in_batch,
        ~in_candidate,
        *legal.not_on_hold(dataset),
    )


def erased_since(session: Session, dataset_id: int, revision: int) -> bool:
    """Return whether a row that was excluded after this revision of a dataset is erased.

    A training on the rows of that revision would read zeros in its place.
    """
    erased = exclusions.rows(dataset_id, after=revision).where(~Exclusion.standing)
    return bool(session.scalar(select(erased.exists())))


def mark_erased(
    session: Session, dataset: Dataset, rows: Sequence[int], *, now: datetime, actor: str
) -> None:
    """Record that the rows were overwritten in the array and the file was flushed.

    If two workers overwrote the same rows, the first one writes the audit line.
    """
    # The clock may have been set back since a request for a class, or be behind that of the API. A
    # row that is erased before the request is none of its records (``naming.records``).
    asked = session.scalar(
        select(func.max(DeletionRequest.created_at)).where(
            DeletionRequest.is_open,
            DeletionRequest.dataset_id == dataset.id,
            DeletionRequest.kind == literal_column("'class'"),
        )
    )
    if asked is not None:
        now = max(now, asked + _MOMENT)
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
        chain.append(
            session,
            actor=actor,
            action=chain.Action.RECORDS_ERASED,
            subject=f"dataset:{dataset.name}",
            data={"rows": marked},
        )


def settle(session: Session, *, now: datetime, actor: str) -> list[str]:
    """Complete every request whose erasures are all done and whose raw rows are all erased."""
    unfinished = exists().where(
        Erasure.request_id == DeletionRequest.id,
        shares.is_open_of_request(),
    )
    listed = exists().where(naming.lists(), Record.erased_at.is_(None))
    of_class = exists().where(
        naming.of_class(),
        Exclusion.dataset_id == Record.dataset_id,
        Exclusion.row == Record.row,
        Exclusion.standing,
    )
    # Rows that are not erased are scanned only for requests for a class.
    gone = or_(DeletionRequest.kind != literal_column("'class'"), ~of_class)
    # Run at each poll; without bound values it is planned once.
    processing = db.among(DeletionRequest.status, RequestStatus.PROCESSING)
    free = DeletionRequest.legal_hold_id.is_(None)
    ready = (DeletionRequest.is_open, processing, free, ~unfinished, ~listed, gone)
    seen = session.execute(
        select(DeletionRequest.id, DeletionRequest.dataset_id)
        .where(*ready)
        .limit(literal_column(str(ROWS_AT_ONCE)))
    ).all()
    if not seen:
        return []
    # A first promotion meanwhile would give a completed request an erasure.
    locks.datasets(session, _datasets_of(session, seen), locks.Hold.INTAKE)
    locked = (
        select(DeletionRequest.id)
        .where(DeletionRequest.id.in_([request_id for request_id, _ in seen]), *ready)
        .order_by(DeletionRequest.id)
        .with_for_update(key_share=True, skip_locked=True)
    )
    ended = session.scalars(
        machines.requests.update(
            session, RequestStatus.COMPLETED, status_reason=None, completed_at=now
        )
        .where(DeletionRequest.id.in_(locked))
        .returning(DeletionRequest)
        # Refresh the rows that the session has loaded.
        .execution_options(synchronize_session=False, populate_existing=True)
    ).all()
    done = sorted(request.id for request in ended)
    if not done:  # another worker completes them at this moment
        machines.requests.met_nothing(session)
        return []
    chain.append_many(
        session,
        actor=actor,
        lines=[
            chain.Line(chain.Action.DELETION_REQUEST_COMPLETED, f"deletion_request:{request_id}")
            for request_id in done
        ],
    )
    return done


def _datasets_of(session: Session, requests: Sequence[Row[str, int | None]]) -> set[int]:
    """Return ids of datasets with records of these requests (id, dataset or None for all)."""
    found = {dataset_id for _, dataset_id in requests if dataset_id is not None}
    everywhere = [request_id for request_id, dataset_id in requests if dataset_id is None]
    if everywhere:
        found |= set(
            session.scalars(
                select(RequestRecord.dataset_id)
                .join(DeletionRequest, DeletionRequest.listed_by == RequestRecord.request_id)
                .where(DeletionRequest.id.in_(everywhere))
                .distinct()
            )
        )
    return found
