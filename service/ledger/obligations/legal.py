"""What a legal hold on a request forbids: its records are not unlearned, erased or given up."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, literal_column, select
from sqlalchemy.orm import Session

from service.errors import Conflict
from service.ledger.database.tables import (
    Dataset,
    DeletionRequest,
    LegalHold,
    Record,
    RequestRecord,
)

#: How many requests an error names.
_NAMED = 10


class UnderLegalHold(Conflict):
    """A legal hold forbids it."""

    code = "under-legal-hold"


def refuse(session: Session, concerned: ColumnElement[bool]) -> None:
    """Raise ``UnderLegalHold`` if a request that satisfies ``concerned`` is on hold."""
    held = session.scalars(
        select(DeletionRequest.id)
        .join(LegalHold, LegalHold.request_id == DeletionRequest.id)
        .where(LegalHold.released_at.is_(None), concerned)
        .order_by(DeletionRequest.id)
        .limit(_NAMED)
    ).all()
    if held:
        raise UnderLegalHold(
            f"a legal hold is on {', '.join(held)}; release it first "
            "(POST /v1/deletion-requests/{id}:release-hold)",
            requests=list(held),
        )


def not_on_hold(dataset: Dataset) -> Sequence[ColumnElement[bool]]:
    """Return SQL: no request on hold names ``Record`` of this dataset, whoever else names it."""
    held = (
        select(DeletionRequest)
        .join(LegalHold, LegalHold.request_id == DeletionRequest.id)
        .where(LegalHold.released_at.is_(None))
    )
    # Below NOT IN, a list larger than the work memory would be read again for each record.
    listed = held.join(RequestRecord, RequestRecord.request_id == DeletionRequest.listed_by).where(
        RequestRecord.dataset_id == dataset.id, RequestRecord.row == Record.row
    )
    # Few holds are in force, so there are few labels: they are read once, not for each record.
    labels = held.where(
        DeletionRequest.kind == literal_column("'class'"),
        DeletionRequest.dataset_id == dataset.id,
        DeletionRequest.label.is_not(None),
    ).with_only_columns(DeletionRequest.label)
    return ~listed.exists(), Record.label.not_in(labels)
