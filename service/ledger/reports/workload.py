"""What work stands, since when, and held by whom: workers, leases, batches, and what waits.

For operators: unlike ``operations`` it names workers and models, though no request and no record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from service.ledger.batches.leases import of_model
from service.ledger.database import db
from service.ledger.database.states import BatchStatus, ErasureStatus
from service.ledger.database.tables import (
    Batch,
    Dataset,
    Erasure,
    Lease,
    Model,
    Suppression,
    Worker,
)
from service.ledger.obligations import shares
from service.ledger.registry import heartbeats

#: Rows of each table that are shown.
MOST = 200


@dataclass(frozen=True)
class Process:
    """A worker process: whether its heartbeats go on, and the lanes that are busy, since when."""

    name: str
    alive: bool
    started_at: datetime
    seen_at: datetime
    busy_since: dict[str, datetime | None]
    code_version: str


@dataclass(frozen=True)
class Holding:
    """A lease that a worker holds: on what, since when, until when unless it is renewed.

    ``doing`` is the operation of ``service.messages`` that it computes, ``progress`` how far that
    is, 0 to 1; None: nothing that takes long.
    """

    what: str
    owner: str
    since: datetime | None
    until: datetime
    doing: str | None
    progress: float | None
    fence: int


@dataclass(frozen=True)
class Queue:
    """Erasures of one model that are not done: how many wait or need review, the oldest since."""

    model: str
    waiting: int
    claimed: int
    needs_review: int
    since: datetime


@dataclass(frozen=True)
class UnderWay:
    """A batch that runs or is held; ``owner`` has the model's lease, None: nobody is at work."""

    model: str
    status: BatchStatus
    records: int
    attempts: int
    trains: bool
    error: str | None
    since: datetime
    held_until: datetime | None
    owner: str | None
    doing: str | None
    progress: float | None


@dataclass(frozen=True)
class Computing:
    """What a worker computes for a model under its lease, since when, and how far that is."""

    owner: str
    doing: str
    progress: float | None
    since: datetime | None


def workers(session: Session, *, beat_seconds: float) -> list[Process]:
    """Return the workers seen within the last hour, by name."""
    now = heartbeats.server_time(session)
    lost = now - timedelta(seconds=heartbeats.MISSED_BEATS * beat_seconds)
    found = session.scalars(select(Worker).order_by(Worker.name).limit(MOST))
    return [
        Process(
            name=one.name,
            alive=one.seen_at >= lost,
            started_at=one.started_at,
            seen_at=one.seen_at,
            busy_since={
                lane: None if since is None else datetime.fromisoformat(since)
                for lane, since in sorted(one.busy_since.items())
            },
            code_version=one.code_version,
        )
        for one in found
    ]


def leases(session: Session) -> list[Holding]:
    """Return the leases that are held now, by what they are on."""
    now = heartbeats.server_time(session)
    found = session.scalars(
        select(Lease)
        .where(Lease.owner.is_not(None), Lease.until > now)
        .order_by(Lease.key)
        .limit(MOST)
    ).all()
    names = _names(session, found)
    return [
        Holding(
            what=names.get(one.key, one.key),
            owner=one.owner or "",
            since=one.taken_at,
            until=one.until,
            doing=one.doing,
            progress=one.progress,
            fence=one.fence,
        )
        for one in found
    ]


def computing(session: Session, model: Model) -> Computing | None:
    """Return what a worker computes under the model's lease now; None: nothing that takes long."""
    held = _held(session, [of_model(model.id)]).get(of_model(model.id))
    if held is None or held.doing is None:
        return None
    return Computing(held.owner or "", held.doing, held.progress, held.taken_at)


def queues(session: Session) -> list[Queue]:
    """Return what each model has still to forget, the oldest first."""

    def of(status: ErasureStatus) -> ColumnElement[int]:
        return func.count().filter(Erasure.status == status)

    rows = session.execute(
        select(
            Model.name,
            of(ErasureStatus.PENDING),
            of(ErasureStatus.CLAIMED),
            of(ErasureStatus.NEEDS_REVIEW),
            func.min(Erasure.created_at),
        )
        .join(Erasure, Erasure.model_id == Model.id)
        .where(shares.is_open())
        .group_by(Model.name)
        .order_by(func.min(Erasure.created_at), Model.name)
        .limit(MOST)
    )
    return [Queue(*row) for row in rows]


def under_way(session: Session) -> list[UnderWay]:
    """Return the batches that run or are held, the oldest first."""
    rows = session.execute(
        select(Batch, Model.name)
        .join(Model, Model.id == Batch.model_id)
        .where(db.among(Batch.status, BatchStatus.RUNNING, BatchStatus.HELD))
        .order_by(Batch.created_at, Batch.id)
        .limit(MOST)
    ).all()
    held = _held(session, [of_model(batch.model_id) for batch, _ in rows])
    found = []
    for batch, name in rows:
        lease = held.get(of_model(batch.model_id))
        found.append(
            UnderWay(
                model=name,
                status=batch.status,
                records=batch.records,
                attempts=batch.attempts,
                trains=batch.trains,
                error=batch.error,
                since=batch.created_at,
                held_until=batch.held_until,
                owner=None if lease is None else lease.owner,
                doing=None if lease is None else lease.doing,
                progress=None if lease is None else lease.progress,
            )
        )
    return found


def suppressed_rows(session: Session, dataset: Dataset) -> int:
    """Return how many rows of the dataset are kept out of later ingests."""
    wanted = select(func.count()).where(
        Suppression.dataset_id == dataset.id, Suppression.lifted_at.is_(None)
    )
    return session.scalar(wanted) or 0


def _held(session: Session, keys: Sequence[str]) -> dict[str, Lease]:
    """Return those of the leases that are held now, by their keys."""
    if not keys:
        return {}
    found = session.scalars(
        select(Lease).where(
            Lease.key.in_(keys),
            Lease.owner.is_not(None),
            Lease.until > heartbeats.server_time(session),
        )
    )
    return {one.key: one for one in found}


def _names(session: Session, found: Sequence[Lease]) -> dict[str, str]:
    """Return in words what leases on models and datasets are on, by their keys."""
    said: dict[str, str] = {}
    for kind, table, words in (("model", Model, "model"), ("ingest", Dataset, "ingest of")):
        numbers = {
            int(rest): one.key
            for one in found
            if (rest := one.key.removeprefix(f"{kind}:")) != one.key and rest.isdigit()
        }
        for number, name in session.execute(
            select(table.id, table.name).where(table.id.in_(numbers))
        ):
            said[numbers[number]] = f"{words} {name}"
    return said
