"""Deletion requests for the people who answer for them: those with the fewest days left first.

Open requests come in the order of their due dates, those of history newest first. Either order has
an index, so that a page costs the same however many requests there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, or_, select
from sqlalchemy.orm import Session

from service.errors import Unprocessable
from service.ledger.database.states import REQUEST_ENDS, RequestStatus
from service.ledger.database.tables import Dataset, DeletionRequest, Erasure, LegalHold, Model
from service.ledger.obligations import shares
from service.ledger.requests.descriptions import describe

#: Larger than every character of a text.
_LAST = "\U0010ffff"


@dataclass(frozen=True)
class Wanted:
    """Conditions of a list; None: no condition.

    ``received_before``: by their age. ``reference``: how the client's own name of the request
    begins. ``only_open``: those that have not ended; a ``status`` decides it itself. ``held``:
    those under a legal hold.
    """

    status: RequestStatus | None = None
    only_open: bool = True
    dataset: str | None = None
    model: str | None = None
    due_before: datetime | None = None
    reference: str | None = None
    held: bool = False
    received_before: datetime | None = None

    @property
    def by_due_date(self) -> bool:
        """Return whether the list is one of open requests, ordered by their due dates."""
        return self.only_open if self.status is None else self.status not in REQUEST_ENDS


def page(
    session: Session, wanted: Wanted, *, after: str | None, limit: int
) -> list[dict[str, Any]]:
    """Return requests in their public form, from after the place of a previous one (``place``)."""
    found = select(DeletionRequest).where(*conditions(session, wanted))
    if wanted.by_due_date:
        found = found.order_by(DeletionRequest.due_at, DeletionRequest.id)
    else:
        found = found.order_by(DeletionRequest.id.desc())
    if after is not None:
        found = found.where(_later(wanted, after))
    requests = session.scalars(found.limit(limit)).all()
    names = _dataset_names(session, requests)
    return [describe(one, names.get(one.dataset_id or 0)) for one in requests]


def _dataset_names(session: Session, requests: Sequence[DeletionRequest]) -> dict[int, str]:
    """Return names of the requests' datasets by their ids.

    Not joined with the requests: where the planner takes open requests for few, since its
    statistics are from before they came, it joins all of them and sorts what it joined.
    """
    wanted = {one.dataset_id for one in requests if one.dataset_id is not None}
    if not wanted:
        return {}
    rows = session.execute(select(Dataset.id, Dataset.name).where(Dataset.id.in_(wanted)))
    return dict(rows.all())


def place(wanted: Wanted, described: dict[str, Any]) -> str:
    """Return the place of a request in its list, for ``after`` of ``page``."""
    identity: str = described["id"]
    return f"{described['due_at']} {identity}" if wanted.by_due_date else identity


def count_open(session: Session, *, up_to: int) -> dict[RequestStatus, int]:
    """Return how many requests are in each open state, of the ``up_to`` oldest ones."""
    some: Select[Any] = (
        select(DeletionRequest.status)
        .where(DeletionRequest.is_open)
        .order_by(DeletionRequest.id)
        .limit(up_to)
    )
    oldest = some.subquery()
    rows = session.execute(select(oldest.c.status, func.count()).group_by(oldest.c.status))
    return dict(rows.all())


def conditions(session: Session, wanted: Wanted) -> list[ColumnElement[bool]]:
    """Return SQL: ``DeletionRequest`` fits."""
    made: list[ColumnElement[bool]] = []
    if wanted.status is not None:
        made.append(DeletionRequest.status == wanted.status)
    if wanted.by_due_date:
        made.append(DeletionRequest.is_open.expression)
    if wanted.held:
        in_force = select(LegalHold.request_id).where(LegalHold.released_at.is_(None))
        made.append(DeletionRequest.id.in_(in_force))  # few, with an index
    if wanted.due_before is not None:
        made.append(DeletionRequest.due_at < wanted.due_before)
    if wanted.received_before is not None:
        made.append(DeletionRequest.created_at < wanted.received_before)
    if wanted.reference is not None:
        made.append(_begins(session, wanted.reference))
    if wanted.dataset is not None:
        number = session.scalar(select(Dataset.id).where(Dataset.name == wanted.dataset))
        made.append(shares.about(-1 if number is None else number))
    if wanted.model is not None:
        concerned = (
            select(Erasure.request_id)
            .join(Model, Model.id == Erasure.model_id)
            .where(Model.name == wanted.model)
        )
        made.append(DeletionRequest.id.in_(concerned))
    return made


def _begins(session: Session, text: str) -> ColumnElement[bool]:
    """Return SQL: the reference begins with a text, character by character, by the index."""
    column = DeletionRequest.client_reference
    if session.get_bind().dialect.name == "postgresql":  # in the order of the index's operators
        return and_(column.op("~>=~")(text), column.op("~<~")(text + _LAST))
    return and_(column >= text, column < text + _LAST)


def _later(wanted: Wanted, after: str) -> ColumnElement[bool]:
    if not wanted.by_due_date:
        return DeletionRequest.id < after
    moment, _, identity = after.partition(" ")
    try:
        due_at = datetime.fromisoformat(moment).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Unprocessable("this is no place of this list; begin at its start") from None
    return and_(
        DeletionRequest.due_at >= due_at,
        or_(DeletionRequest.due_at > due_at, DeletionRequest.id > identity),
    )
