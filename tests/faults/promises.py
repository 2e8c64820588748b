"""What must hold when the dust has settled, read from the database, the files and the answers."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from models_store import arrays, checkpoints, errors
from service.ledger import audit, lineage, purges, versions
from service.ledger.states import BatchStatus, ErasureStatus, RequestStatus, VersionStatus
from service.ledger.tables import (
    AliasMove,
    AuditEvent,
    Batch,
    BatchRecord,
    Dataset,
    DeletionRequest,
    Erasure,
    Model,
    Record,
    RequestRecord,
    Verification,
    Version,
)
from tests.faults.clients import Asked
from tests.faults.fleet import AGAIN, DATASET, Fleet
from tests.faults.kinds import Broken, Kind, of

ENDS = {RequestStatus.COMPLETED, RequestStatus.NO_MATCH, RequestStatus.CANCELLED}


def broken(fleet: Fleet, accepted: list[Asked]) -> list[Broken]:
    """Every promise that does not hold; [] when all do."""
    with fleet.reading() as session:
        return [
            *of(Kind.OTHER, _shown(fleet, session, accepted)),
            *broken_at_rest(fleet, session, accepted),
        ]


def broken_at_rest(fleet: Fleet, session: Session, accepted: list[Asked]) -> list[Broken]:
    """Same, without asking the API."""
    return [
        *_requests(session, accepted),
        *of(Kind.LOST, _batches(session)),
        *of(Kind.LOST, _without_batch(session)),
        *of(Kind.OTHER, _chains(session)),
        *of(Kind.REPEATED, _forgotten_twice(session)),
        *of(Kind.STILL_LIVE, _still_live(session)),
        *of(Kind.OTHER, _production(session)),
        *_rows(fleet, session),
        *_come_back(fleet, session),
        *_audit(session, accepted),
        *of(Kind.OTHER, _files(fleet, session)),
        *of(Kind.RESURRECTED, _weights(fleet, session)),
    ]


def _shown(fleet: Fleet, session: Session, accepted: list[Asked]) -> list[str]:
    """Over HTTP every request is what the ledger holds."""
    found = []
    for asked in accepted:
        request = session.get(DeletionRequest, asked.id)
        shown = fleet.get(f"/v1/deletion-requests/{asked.id}")
        if request is None or shown is None or shown["status"] != request.status:
            found.append(f"{asked.id}: the API shows something else than the ledger holds")
    return found


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
        if asked.cancelled != (request.status == RequestStatus.CANCELLED):
            kind = Kind.CANCELLED if asked.cancelled else Kind.LOST
            words = f"{asked.id}: cancelled={asked.cancelled}, but it is {request.status}"
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


def _chains(session: Session) -> list[str]:
    """Numbers without gaps; the promoted versions of one anchor follow each other in one line."""
    found = []
    all_versions = session.scalars(select(Version).order_by(Version.number)).all()
    if [one.number for one in all_versions] != list(range(1, len(all_versions) + 1)):
        found.append("version numbers have gaps")
    known = {one.id: one for one in all_versions}
    promoted = set(session.scalars(select(AliasMove.version_id)))
    followers: dict[int, list[int]] = defaultdict(list)
    for one in all_versions:
        if one.origin != "unlearned" or one.id not in promoted:
            continue
        assert one.parent_id is not None
        if known[one.parent_id].anchor_id != one.anchor_id:
            found.append(f"version {one.number} steps from another anchor than its parent's")
        followers[one.parent_id].append(one.number)
    return found + [
        f"versions {numbers} both follow version {known[parent].number}"
        for parent, numbers in followers.items()
        if len(numbers) > 1
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
                action=audit.Action.DELETION_REQUEST_HOLDER_WITHDRAWN
            )
        )
    }
    return [
        f"{one} is completed without a completed batch"
        for one in completed
        if one in with_shares - released and shares[one] != 1
    ]


def _forgotten_twice(session: Session) -> list[str]:
    """No chain of versions forgets a record more than once."""
    found = []
    promoted = set(session.scalars(select(AliasMove.version_id)))
    for version in session.scalars(select(Version).where(Version.id.in_(promoted))):
        chain = lineage.batch_chain(session, version)
        rows = session.scalars(select(BatchRecord.row).where(BatchRecord.batch_id.in_(chain)))
        twice = [row for row, times in Counter(rows).items() if times > 1]
        if twice:
            found.append(f"the chain of version {version.number} forgets rows {twice} twice")
    return found


def _still_live(session: Session) -> list[str]:
    """What production points at holds no forgotten record, and no check has had to repair that."""
    model = session.scalars(select(Model)).one()
    live = session.get_one(Version, model.production_id)
    held = versions.contains_forgotten(session, model, live)
    repaired = session.scalars(
        select(AuditEvent.subject).filter_by(action=audit.Action.DELETION_REQUEST_REOPENED)
    )
    return [f"{one} was completed too early" for one in repaired] + (
        [f"production holds the records of {held}"] if held else []
    )


def _production(session: Session) -> list[str]:
    """The alias moved without a break, and only ever to a verified version."""
    found = []
    before = None
    good = {"passed", "no_power", "exact"}
    for move in session.scalars(select(AliasMove).order_by(AliasMove.id)):
        if move.previous_id != before:
            found.append(f"move {move.id} of production starts at a version it did not point to")
        before = move.version_id
        if before is None:  # withdrawn, and nothing in its place
            continue
        judged = session.scalar(select(Verification).filter_by(version_id=move.version_id))
        if judged is None or judged.verdict not in good:
            found.append(f"production pointed at version id {move.version_id}, not verified")
    if before != session.scalar(select(Model.production_id)):
        found.append("production does not point where its history says")
    return found


def _rows(fleet: Fleet, session: Session) -> list[Broken]:
    """The ledger calls those rows erased that a completed request asked for, and they are."""
    asked = _rows_of(session, RequestStatus.COMPLETED)
    cancelled = _rows_of(session, RequestStatus.CANCELLED)
    return [
        Broken(
            _of_row(one.row, asked, cancelled),
            f"row {one.row}: erased={one.erased_at}, asked for={one.row in asked}",
        )
        for one in session.scalars(
            select(Record).filter_by(dataset_id=_dataset(session, DATASET).id)
        )
        if (one.erased_at is not None) != (one.row in asked)
    ] + _array(fleet, session, asked, cancelled)


def _of_row(row: int, asked: set[int], cancelled: set[int]) -> Kind:
    if row in asked:
        return Kind.RESURRECTED
    return Kind.CANCELLED if row in cancelled else Kind.OTHER


def _array(fleet: Fleet, session: Session, asked: set[int], cancelled: set[int]) -> list[Broken]:
    """Raw rows: zero where a completed request asked for it, untouched everywhere else."""
    key = _dataset(session, DATASET).array_key
    assert key is not None
    array = arrays.open(fleet.settings.store, key)
    found = []
    for row in range(len(array)):
        raw = np.asarray(array.rows[row])
        right = not raw.any() if row in asked else np.array_equal(raw, fleet.digits.x[row])
        if not right:
            words = f"row {row} of the array is not what it should be"
            found.append(Broken(_of_row(row, asked, cancelled), words))
    try:
        arrays.verify(fleet.settings.store, key)
    except errors.Corrupt as damage:
        found.append(Broken(Kind.OTHER, str(damage)))
    return found


def _come_back(fleet: Fleet, session: Session) -> list[Broken]:
    """Ingesting the same source again leaves out who was forgotten, and nobody else."""
    names = fleet.digits.record_ids
    forgotten = {names[row] for row in _rows_of(session, RequestStatus.COMPLETED)}
    again = _dataset(session, AGAIN)
    found = set(session.scalars(select(Record.record_id).filter_by(dataset_id=again.id)))
    return [
        *of(Kind.RESURRECTED, (f"{one} came back" for one in sorted(found & forgotten))),
        *of(Kind.OTHER, (f"{one} was kept out" for one in sorted({*names} - forgotten - found))),
    ]


def _dataset(session: Session, name: str) -> Dataset:
    return session.scalars(select(Dataset).filter_by(name=name)).one()


def _rows_of(session: Session, status: RequestStatus) -> set[int]:
    return set(
        session.scalars(
            select(RequestRecord.row)
            .join(DeletionRequest, DeletionRequest.listed_by == RequestRecord.request_id)
            .where(DeletionRequest.status == status)
        )
    )


def _audit(session: Session, accepted: list[Asked]) -> list[Broken]:
    """The chain verifies; each request was accepted once and ended once; nothing erased twice."""
    sound = audit.verify(session).sound
    found = of(Kind.OTHER, [] if sound else ["the audit chain does not verify"])
    lines = Counter(
        (line.subject, line.action)
        for line in session.execute(select(AuditEvent.subject, AuditEvent.action))
    )
    for asked in accepted:
        subject = f"deletion_request:{asked.id}"
        ended = sum(
            lines[subject, f"deletion_request:{end}"]
            for end in ("completed", "cancelled", "no_match")
        )
        if ended != 1:
            kind = Kind.REPEATED if ended else Kind.LOST
            found.append(Broken(kind, f"{asked.id} ended {ended} times in the audit chain"))
        if lines[subject, "deletion_request:accepted"] > 1:
            found.append(Broken(Kind.REPEATED, f"{asked.id} was accepted more than once"))
    erased = sum(
        line.data["rows"]
        for line in session.scalars(select(AuditEvent).filter_by(action="records:erased"))
    )
    marked = len(session.scalars(select(Record.row).where(Record.erased_at.is_not(None))).all())
    if erased != marked:
        words = f"{marked} rows are erased and the audit chain says {erased}"
        found.append(Broken(Kind.REPEATED, words))
    return found


def _files(fleet: Fleet, session: Session) -> list[str]:
    """Nothing lies about that the ledger does not know, and what is live is whole."""
    live = session.get_one(Version, session.scalar(select(Model.production_id)))
    checkpoints.load(fleet.settings.store, live.digest)
    return [f"orphan {path}" for path in orphans(fleet)]


def _weights(fleet: Fleet, session: Session) -> list[str]:
    """Weights of purged versions are gone."""
    found = []
    for version in session.scalars(select(Version).filter_by(status=VersionStatus.PURGED)):
        path = fleet.settings.store / "checkpoints" / version.digest
        shared = version.digest in purges.files_in_use(session)["checkpoints"]
        if path.exists() and not shared:
            found.append(f"version {version.number} is purged and its weights are there")
    return found


def orphans(fleet: Fleet) -> list[Path]:
    """Files older than the grace that nothing in the ledger refers to."""
    with fleet.reading() as session:
        keep = purges.files_in_use(session)
    # Sweeps run every quarter of the grace, and wait for a lane that may be training.
    oldest = time.time() - 2 * fleet.settings.orphan_grace_seconds
    found = []
    for kind in (*purges.KINDS, "arrays"):
        home = fleet.settings.store / kind
        for path in home.iterdir() if home.is_dir() else []:
            if path.name not in keep[kind] and path.stat().st_mtime < oldest:
                found.append(path)
    return found
