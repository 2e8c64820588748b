"""Raw rows: which of a dataset may be overwritten, and that they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import (
    ColumnElement,
    Select,
    and_,
    exists,
    func,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session

from service.ledger.audit import chain
from service.ledger.database import db
from service.ledger.database.states import BatchStatus, DatasetStatus, RunStatus, VersionStatus
from service.ledger.database.tables import (
    Artifact,
    Batch,
    BatchState,
    Dataset,
    DeletionRequest,
    Exclusion,
    Model,
    Record,
    TrainingRun,
    Version,
)
from service.ledger.obligations import legal, shares, without_models
from service.ledger.selection import exclusions, naming

#: A statement takes a limited number of values on both databases.
ROWS_AT_ONCE = 10_000


#: The shortest time between two moments.
_MOMENT = timedelta(microseconds=1)


@dataclass(frozen=True)
class ToErase:
    """A dataset in which something may have to be excluded or erased.

    ``stands``: it has excluded rows that are not erased. ``waits``: it has requests that no model
    has to do, whose records nobody has excluded. ``has_margins``: margins of its rows are
    stored. ``has_statistics``: so are sums over its rows of versions from which no batch starts
    any more.
    """

    dataset: Dataset
    stands: bool
    waits: bool
    has_margins: bool
    has_statistics: bool


def to_erase(session: Session, *, now: datetime) -> list[ToErase]:
    """Return datasets with rows to erase, with requests without a model, and withdrawn ones."""
    # Select the first such row instead of EXISTS: with old statistics the planner may expect any
    # row to match, and would scan them all.
    first = exclusions.standing(Dataset.id).order_by(Exclusion.row).limit(literal_column("1"))
    some = first.scalar_subquery().is_not(None)
    withdrawn = db.among(Dataset.status, DatasetStatus.WITHDRAWN)
    stored = db.among(Dataset.status, DatasetStatus.READY, DatasetStatus.WITHDRAWN)
    stands = and_(stored, some)
    waits = Dataset.id.in_(without_models.datasets(now))
    has_margins = exists().where(
        db.among(Artifact.kind, "margins"),
        Artifact.destroyed_at.is_(None),
        Version.id == Artifact.version_id,
        Model.id == Version.model_id,
        Model.dataset_id == Dataset.id,
    )
    has_statistics = outdated_statistics().where(Model.dataset_id == Dataset.id).exists()
    found = session.execute(
        select(Dataset, stands, waits, has_margins, has_statistics)
        .where(or_(stands, waits, withdrawn))
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
