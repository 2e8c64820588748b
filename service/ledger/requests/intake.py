"""Record deletion requests: many at once, in a constant number of statements."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.errors import ServiceError
from service.ledger.database.tables import Dataset, DeletionRequest
from service.ledger.requests import idempotency, outlook, parts, suppressions
from service.ledger.requests.descriptions import describe
from service.ledger.requests.page import Page, Receipt, Submission
from service.ledger.selection import listing
from service.ledger.selection.digests import Digester
from service.ledger.selection.matching import Ask


def record(
    session: Session,
    ask: Ask,
    *,
    principal: str,
    digester: Digester,
    now: datetime,
    claim: idempotency.Claim | None = None,
    room: int | None = None,
) -> Receipt:
    """Record one request; see ``record_many``."""
    submission = Submission(ask, principal, claim)
    outcome = record_many(session, [submission], digester=digester, now=now, room=room)[0]
    if isinstance(outcome, ServiceError):
        raise outcome
    return outcome


def record_many(
    session: Session,
    submissions: Sequence[Submission],
    *,
    digester: Digester,
    now: datetime,
    room: int | None = None,
) -> list[Receipt | ServiceError]:
    """Record as many of these requests as fit in a transaction; see ``gather``."""
    gathered = gather(session, submissions, digester=digester, now=now, room=room)
    gathered.write()
    return gathered.outcomes


def gather(
    session: Session,
    submissions: Sequence[Submission],
    *,
    digester: Digester,
    now: datetime,
    room: int | None = None,
    outlooks: outlook.Outlooks | None = None,
) -> Gathered:
    """Prepare as many of these requests, from the first on, as fit in a transaction (at least one).

    For each of those, in order, return a receipt or the refusal; the caller writes what was
    gathered, commits, and calls again with the rest. A transaction lists ``page.ROWS_AT_ONCE``
    records; requests that match exactly the same records share their list.

    A refused request changes nothing and does not affect the others. A recorded one gets an erasure
    for every model of its datasets that may hold its records (``shares``), unless it waits for
    approval. ``room`` is how many more open requests the queue accepts. If two transactions record
    the same idempotency key at the same moment, they collide on its primary key; the loser rolls
    back and is repeated.
    """
    claims = [one.claim for one in submissions if one.claim is not None]
    answered = idempotency.answers(session, claims)
    # Of a subject, and of a class, an ingest or append must find what is asked before it ends.
    if any(one.ask.kind in ("subject", "class") for one in submissions):
        suppressions.share(session)
    asks = parts.with_labels(session, [one.ask for one in submissions])
    submissions = [replace(one, ask=ask) for one, ask in zip(submissions, asks, strict=True)]
    matched = parts.parts_of(session, asks, digester=digester, now=now, outlooks=outlooks)
    named = parts.named(asks, matched)
    page = Page(session, digester, now, room, listing.Lists(session, named))
    outcomes: list[Receipt | ServiceError] = []
    for submission, its_parts, its_rows in zip(submissions, matched, named, strict=True):
        if page.is_full(its_rows):
            break
        try:
            outcomes.append(page.take(submission, its_parts, its_rows, answered))
        except ServiceError as refusal:
            outcomes.append(refusal)
    return Gathered(outcomes, page)


def recorded(session: Session, submissions: Iterable[Submission]) -> dict[str, Receipt]:
    """Return receipts of the submissions that are recorded, by id."""
    rows = session.execute(
        select(DeletionRequest, Dataset.name)
        .outerjoin(Dataset, Dataset.id == DeletionRequest.dataset_id)
        .where(DeletionRequest.id.in_([one.id for one in submissions]))
    )
    return {request.id: Receipt(describe(request, name)) for request, name in rows}


@dataclass(frozen=True)
class Gathered:
    """Rows to write for requests, and the answers to their senders once committed."""

    outcomes: list[Receipt | ServiceError]
    page: Page

    def write(self) -> None:
        """Insert everything, without reading."""
        self.page.write()
