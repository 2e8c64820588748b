"""Tombstone lists, requests that a restored database lost, and a replay."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger.audit import canonical
from service.ledger.audit.signing import Signer
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import (
    Dataset,
    DeletionRequest,
    Erasure,
    LegalHold,
    Record,
    RequestRecord,
)
from service.ledger.requests import deadlines
from service.ledger.requests.deadlines import ExtensionReason
from service.ledger.restore import differences, replay, tombstones
from service.ledger.restore.differences import Found
from service.ledger.restore.tombstones import Tombstones
from service.ledger.selection.digests import Digester
from tests import factories
from tests.factories import DIGESTER, NOW

SIGNER = Signer.from_seed(bytes(range(32)))

KEYS = {SIGNER.key_id: SIGNER.public_key}

LATER = NOW + timedelta(days=1)


def exported(session: Session) -> Tombstones:
    document = tombstones.export(session, digester=DIGESTER, signer=SIGNER, now=NOW)
    return tombstones.read(canonical.encode(document), keys=KEYS)


def lose(session: Session, *requests: DeletionRequest) -> None:
    """As if the backup were from before these requests."""
    for one in requests:
        for row in session.scalars(select(RequestRecord.row).filter_by(request_id=one.id)).all():
            session.get_one(Record, (one.dataset_id, row)).excluded_revision = None
        session.query(Erasure).filter_by(request_id=one.id).delete()
        session.query(RequestRecord).filter_by(request_id=one.id).delete()
        session.query(LegalHold).filter_by(request_id=one.id).delete()
        session.delete(one)
    session.flush()


def compared(session: Session, listed: Tombstones, digester: Digester = DIGESTER, **flat) -> Found:
    return differences.compare(session, listed, digester=digester, overwritten=flat)


def replayed(session: Session, listed: Tombstones, **flat) -> replay.Replayed:
    return replay.replay(
        session,
        listed,
        compared(session, listed, **flat),
        digester=DIGESTER,
        actor="cli",
        now=LATER,
    )


def completed(session: Session, data: Dataset, *rows: int) -> DeletionRequest:
    made = factories.request(
        session, data, rows=rows, status=RequestStatus.COMPLETED, completed_at=NOW
    )
    for row in rows:
        record = session.get_one(Record, (data.id, row))
        record.excluded_revision, record.erased_at = 1, NOW
    session.flush()
    return made


def extended_request(session: Session, data: Dataset) -> DeletionRequest:
    asked = NOW - timedelta(days=3)
    request = factories.request(
        session,
        data,
        status=RequestStatus.ACCEPTED,
        regulation="ccpa",
        asked_at=asked,
        due_at=asked + timedelta(days=45),
    )
    deadlines.extend(
        session,
        request.id,
        periods=1,
        because=ExtensionReason.COMPLEXITY,
        reason="many systems",
        actor="key:k",
        now=NOW,
    )
    return request
