"""What must hold when the dust has settled, read from the database, the files and the answers."""

from __future__ import annotations

from collections import Counter

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.ledger.audit import chain
from service.ledger.database.states import BatchStatus, ErasureStatus, RequestStatus
from service.ledger.database.tables import (
    AuditEvent,
    Batch,
    Dataset,
    DeletionRequest,
    Erasure,
    Record,
)
from tests.faults import promises_files, promises_operators, promises_versions
from tests.faults.clients import Asked
from tests.faults.fleet import Fleet
from tests.faults.kinds import Broken, Kind, of

ENDS = {
    RequestStatus.COMPLETED,
    RequestStatus.NO_MATCH,
    RequestStatus.CANCELLED,
    RequestStatus.DENIED,
}


def broken(fleet: Fleet, accepted: list[Asked]) -> list[Broken]:
    """Every promise that does not hold; [] when all do."""
    with fleet.reading() as session:
        return [
            *of(Kind.OTHER, _shown(fleet, session, accepted)),
            *promises_operators.shown(fleet),
            *broken_at_rest(fleet, session, accepted),
        ]


def broken_at_rest(fleet: Fleet, session: Session, accepted: list[Asked]) -> list[Broken]:
    """Same, without asking the API."""
    return [
        *_requests(session, accepted),
        *of(Kind.LOST, _batches(session)),
        *of(Kind.LOST, _without_batch(session)),
        *promises_versions.broken(fleet, session),
        *promises_files.broken(fleet, session),
        *promises_operators.broken(fleet, session),
        *_audit(session, accepted),
    ]


def _shown(fleet: Fleet, session: Session, accepted: list[Asked]) -> list[str]:
    """Over HTTP every request is what the ledger holds."""
    held = {
        one.id: one.status.value
        for one in session.execute(select(DeletionRequest.id, DeletionRequest.status))
    }
    shown = {one["id"]: one["status"] for one in fleet.listed("/v1/deletion-requests")}
    return [
        f"{asked.id}: the API shows something else than the ledger holds"
        for asked in accepted
        if asked.id not in held or shown.get(asked.id) != held[asked.id]
    ]


def _requests(session: Session, accepted: list[Asked]) -> list[Broken]:
    """No request answered 2xx is missing; each is at its end."""
    found = []
    stored = {one.id: one for one in session.scalars(select(DeletionRequest))}
    for asked in accepted:
        request = stored.get(asked.id)
        if request is None:
            found.append(Broken(Kind.MISSING, f"{asked.id} was accepted and is missing"))
            continue
        if request.status not in ENDS:
            words = f"{asked.id} has not ended: {request.status} {request.status_reason}"
            found.append(Broken(Kind.LOST, words))
        for said, end in (
            (asked.cancelled, RequestStatus.CANCELLED),
            (asked.denied, RequestStatus.DENIED),
        ):
            if said != (request.status == end):
                kind = Kind.CANCELLED if said else Kind.LOST
                words = f"{asked.id}: {end}={said}, but it is {request.status}"
                found.append(Broken(kind, words))
    unasked = stored.keys() - {one.id for one in accepted}
    return found + of(Kind.REPEATED, (f"{one} was recorded and nobody sent it" for one in unasked))


def _batches(session: Session) -> list[str]:
    running = session.scalars(select(Batch.id).where(Batch.status == BatchStatus.RUNNING)).all()
    waiting = session.scalars(
        select(Erasure.id).where(Erasure.status.in_([ErasureStatus.PENDING, ErasureStatus.CLAIMED]))
    ).all()
    return [f"batch {one} still runs" for one in running] + [
        f"erasure {one} still waits" for one in waiting
    ]


def _without_batch(session: Session) -> list[str]:
    """Each completed request has one completed batch, unless what held its records is withdrawn."""
    completed = session.scalars(
        select(DeletionRequest.id).where(DeletionRequest.status == RequestStatus.COMPLETED)
    ).all()
    shares = Counter(
        session.scalars(
            select(Erasure.request_id)
            .join(Batch, Batch.id == Erasure.batch_id)
            .where(Erasure.status == ErasureStatus.COMPLETED, Batch.status == BatchStatus.COMPLETED)
        )
    )
    with_shares = set(session.scalars(select(Erasure.request_id)))
    released = {
        subject.partition(":")[2]
        for subject in session.scalars(
            select(AuditEvent.subject).filter_by(
                action=chain.Action.DELETION_REQUEST_HOLDER_WITHDRAWN
            )
        )
    }
    return [
        f"{one} is completed without a completed batch"
        for one in completed
        if one in with_shares - released and shares[one] != 1
    ]


def _audit(session: Session, accepted: list[Asked]) -> list[Broken]:
    """The chain verifies; each request was accepted once and ended once; nothing erased twice."""
    sound = chain.verify(session).sound
    found = of(Kind.OTHER, [] if sound else ["the audit chain does not verify"])
    lines = Counter(
        (line.subject, line.action)
        for line in session.execute(select(AuditEvent.subject, AuditEvent.action))
    )
    for asked in accepted:
        subject = f"deletion_request:{asked.id}"
        ended = sum(lines[subject, f"deletion_request:{end}"] for end in ENDS)
        if ended != 1:
            kind = Kind.REPEATED if ended else Kind.LOST
            found.append(Broken(kind, f"{asked.id} ended {ended} times in the audit chain"))
        if lines[subject, "deletion_request:accepted"] > 1:
            found.append(Broken(Kind.REPEATED, f"{asked.id} was accepted more than once"))
    return found + of(Kind.REPEATED, _erased_twice(session))


def _erased_twice(session: Session) -> list[str]:
    """The audit chain counts each overwritten row once, where the dataset is not withdrawn."""
    found = []
    counted: Counter[str] = Counter()
    for line in session.scalars(select(AuditEvent).filter_by(action=chain.Action.RECORDS_ERASED)):
        counted[line.subject] += line.data["rows"]
    marked = select(func.count()).select_from(Record).where(Record.erased_at.is_not(None))
    for dataset in session.scalars(select(Dataset).where(Dataset.withdrawn_at.is_(None))):
        rows = session.scalar(marked.where(Record.dataset_id == dataset.id))
        said = counted[f"dataset:{dataset.name}"]
        if rows != said:
            found.append(f"{rows} rows are erased and the audit chain says {said}")
    return found
