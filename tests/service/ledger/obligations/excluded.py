"""A request whose records are excluded from training."""

from __future__ import annotations

from sqlalchemy.orm import Session

from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import Dataset, DeletionRequest
from service.ledger.selection import exclusions, naming
from tests import factories


def asked(session: Session, data: Dataset, *rows: int) -> DeletionRequest:
    """A request whose records were excluded when its batch was claimed."""
    request = factories.request(session, data, rows=rows, status=RequestStatus.PROCESSING)
    exclusions.exclude(session, data.id, naming.Names.of([request]))
    session.expire_all()
    return request
