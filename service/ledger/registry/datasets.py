"""Datasets: accepted, ingested by a worker, ready or refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.errors import Conflict, NotFound
from service.ledger.audit import chain, machines
from service.ledger.database.identifiers import Case, Origin
from service.ledger.database.states import DatasetStatus, IllegalMove
from service.ledger.database.tables import Dataset, DatasetReport, Exclusion, Record
from service.ledger.registry import choices, records, standing

#: Positions of the splits in ``Record.split``, as in the array store.
SPLITS = ("train", "validation", "audit")

_LONGEST_ERROR = 2_000


@dataclass(frozen=True)
class Report:
    """How a source was read; see ``DatasetReport``."""

    columns: Sequence[Mapping[str, Any]] = ()
    class_names: Sequence[str] | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ingested:
    """What an ingest found: the array's key, its rows per split, where its ids come from."""

    array_key: str
    splits: Mapping[str, int]
    #: Shape of one row.
    shape: tuple[int, ...]
    dtype: str
    classes: int
    record_id_origin: Origin
    subject_id_origin: Origin
    #: The kind of input: ``name``, ``options``, ``parameters`` that it decides, ``scale``.
    input: Mapping[str, Any]
    id_case: Case | None = None
    #: Key of the array of texts; None: they are not kept.
    text_key: str | None = None
    report: Report = field(default_factory=Report)


@dataclass(frozen=True)
class Counts:
    """Rows of a dataset: per split, excluded from training, and overwritten in the store."""

    splits: Mapping[str, int]
    forgotten: int
    erased: int


def create(
    session: Session, name: str, *, source: dict[str, Any], actor: str, now: datetime
) -> Dataset:
    """Accept a dataset for ingest; the name of a failed one may be used again.

    ``source`` describes the source: path, format, columns, classes, seed, fractions.
    """
    choices.check_input(session, source.get("input"))
    known = find(session, name)
    if known is not None:
        return _again(session, known, source=source, actor=actor, now=now)
    dataset = Dataset(
        name=name, status=DatasetStatus.INGESTING, source=source, revision=0, progress=0.0,
        created_at=now,
    )  # fmt: skip
    try:
        with session.begin_nested():
            session.add(dataset)
            session.flush()
    except IntegrityError as error:  # another transaction took the name at the same moment
        raise _taken(name) from error
    _write(session, dataset, chain.Action.DATASET_CREATED, actor, format=source.get("format"))
    return dataset


def find(session: Session, name: str) -> Dataset | None:
    """Return the dataset of this name, or None."""
    return session.scalar(select(Dataset).where(Dataset.name == name))


def get(session: Session, name: str) -> Dataset:
    """Return the dataset of this name; raise ``NotFound`` if there is none."""
    dataset = find(session, name)
    if dataset is None:
        raise NotFound("there is no dataset of this name; list them with GET /v1/datasets")
    return dataset


def get_ready(session: Session, name: str) -> Dataset:
    """Return the dataset of this name once it can be used; raise ``Conflict`` until then."""
    dataset = get(session, name)
    standing.require_dataset(dataset)
    if dataset.status == DatasetStatus.INGESTING:
        raise Conflict(
            f"dataset {name} is still being ingested; wait until its status is ready",
            retry_after_seconds=5,
        )
    if dataset.status == DatasetStatus.FAILED:
        raise Conflict(f"dataset {name} could not be ingested; correct its source and add it again")
    return dataset


def page(session: Session, *, after: str | None, limit: int) -> Sequence[Dataset]:
    """Return datasets by name, those after the name ``after``."""
    wanted = select(Dataset)
    if after is not None:
        wanted = wanted.where(Dataset.name > after)
    return session.scalars(wanted.order_by(Dataset.name).limit(limit)).all()


def counts(session: Session, dataset: Dataset) -> Counts:
    """Return how many rows lie in each split and how many are forgotten.

    Reads the forgotten records only: every overwritten row was forgotten before, unless its dataset
    was withdrawn.
    """
    if dataset.withdrawn_at is None:
        forgotten, erased = session.execute(
            select(func.count(), func.count().filter(~Exclusion.standing)).where(
                Exclusion.dataset_id == dataset.id
            )
        ).one()
    else:
        forgotten, erased = session.execute(
            select(func.count(Record.excluded_revision), func.count(Record.erased_at)).where(
                Record.dataset_id == dataset.id
            )
        ).one()
    splits = dataset.split_rows or dict.fromkeys(SPLITS, 0)
    return Counts(splits=splits, forgotten=forgotten, erased=erased)


def report(session: Session, dataset: Dataset) -> Report | None:
    """Return how the source was read; None before that, and for datasets of earlier releases."""
    row = session.get(DatasetReport, dataset.id)
    return None if row is None else Report(row.columns, row.class_names, row.notes)


def describe(session: Session, dataset: Dataset) -> dict[str, Any]:
    """Return the dataset in its public form, with its counts and how its source was read."""
    counted = counts(session, dataset)
    shown = (
        *("name", "status", "progress", "error", "source", "rows", "shape", "dtype", "classes"),
        *("revision", "created_at", "ready_at", "withdrawn_at", "purged_at"),
    )
    return {
        **{field: getattr(dataset, field) for field in shown},
        "keeps_text": dataset.text_key is not None,
        "splits": counted.splits,
        "forgotten": counted.forgotten,
        "erased": counted.erased,
        **describe_report(
            report(session, dataset) or Report(),
            record_id=dataset.record_id_origin,
            subject_id=dataset.subject_id_origin,
            id_case=dataset.id_case,
            input=dataset.input,
        ),
    }


def describe_report(
    report: Report,
    *,
    record_id: Origin | None,
    subject_id: Origin | None,
    id_case: Case | None,
    input: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return how a source was read in its public form."""
    return {
        "columns": list(report.columns),
        "class_names": report.class_names,
        "notes": dict(report.notes),
        "ids": {"record_id": record_id, "subject_id": subject_id, "case": id_case},
        "input": input and {part: input[part] for part in ("name", "options", "parameters")},
        "scale": input and input["scale"],
    }


def waiting(session: Session) -> Sequence[Dataset]:
    """Return datasets that a worker has to ingest, oldest first."""
    return session.scalars(
        select(Dataset).where(Dataset.status == DatasetStatus.INGESTING).order_by(Dataset.id)
    ).all()


def progress(session: Session, dataset_id: int, fraction: float) -> None:
    """Store the progress of an ingest, 0 to 1; not an audit event."""
    session.execute(
        update(Dataset)
        .where(Dataset.id == dataset_id, Dataset.status == DatasetStatus.INGESTING)
        .values(progress=min(max(fraction, 0.0), 1.0))
        .execution_options(synchronize_session=False)
    )


def complete(
    session: Session, dataset: Dataset, ingested: Ingested, *, actor: str, now: datetime
) -> None:
    """Make the dataset ready: the array is in the store and every record is written.

    ``IllegalMove`` unless there are as many records as rows.
    """
    records.require_ingesting(session, dataset)
    rows, written = sum(ingested.splits.values()), records.written(session, dataset.id)
    if written != rows:
        raise IllegalMove(f"dataset {dataset.name} has {written} records for {rows} rows")
    dataset.rows = rows
    dataset.split_rows = {name: ingested.splits.get(name, 0) for name in SPLITS}
    dataset.array_key, dataset.text_key = ingested.array_key, ingested.text_key
    dataset.shape = list(ingested.shape)
    dataset.dtype = ingested.dtype
    dataset.classes = ingested.classes
    dataset.record_id_origin = ingested.record_id_origin
    dataset.subject_id_origin = ingested.subject_id_origin
    dataset.id_case = ingested.id_case
    dataset.input = dict(ingested.input)
    machines.datasets.move(dataset, DatasetStatus.READY)
    dataset.progress = 1.0
    dataset.error = None
    dataset.ready_at = now
    session.add(
        DatasetReport(
            dataset_id=dataset.id,
            columns=[dict(column) for column in ingested.report.columns],
            class_names=ingested.report.class_names and list(ingested.report.class_names),
            notes=dict(ingested.report.notes),
        )
    )
    session.flush()
    _write(
        session,
        dataset,
        chain.Action.DATASET_INGESTED,
        actor,
        rows=dataset.rows,
        classes=ingested.classes,
        suppressed=ingested.report.notes.get("suppressed", 0),
        array=ingested.array_key,
        **({} if ingested.text_key is None else {"texts": ingested.text_key}),
    )


def fail(session: Session, dataset: Dataset, *, error: str, actor: str, now: datetime) -> None:
    """Refuse the source; ``error`` names row and column and says what to correct.

    Records written from it must have been removed before.
    """
    records.require_ingesting(session, dataset)
    if records.written(session, dataset.id):
        raise IllegalMove(f"records of dataset {dataset.name} are left; remove them first")
    machines.datasets.move(dataset, DatasetStatus.FAILED)
    dataset.error = error.replace("\0", "")[:_LONGEST_ERROR]
    session.flush()
    _write(session, dataset, chain.Action.DATASET_FAILED, actor)


def _again(
    session: Session, known: Dataset, *, source: dict[str, Any], actor: str, now: datetime
) -> Dataset:
    if known.withdrawn_at is not None:
        raise Conflict(
            f"there was a dataset {known.name}, which was withdrawn; a name is not used twice, so "
            "that its history stays that of one dataset: choose another name"
        )
    if known.status != DatasetStatus.FAILED:
        raise _taken(known.name)
    machines.datasets.move(known, DatasetStatus.INGESTING)
    known.source = source
    known.progress = 0.0
    known.error = None
    known.created_at = now
    session.flush()
    _write(session, known, chain.Action.DATASET_CREATED, actor, format=source.get("format"))
    return known


def _taken(name: str) -> Conflict:
    return Conflict(f"there is a dataset {name} already; use it or choose another name")


def _write(
    session: Session, dataset: Dataset, action: chain.Action, actor: str, **data: Any
) -> None:
    chain.append(session, actor=actor, action=action, subject=f"dataset:{dataset.name}", data=data)
