"""Idempotency keys: the answer that was given to one principal for one key.

Of the body only a keyed digest is kept, because it may name a person.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, tuple_
from sqlalchemy.orm import Session

from service.errors import Unprocessable
from service.ledger.database.tables import IdempotencyKey


class KeyReused(Unprocessable):
    """The key was used with another body."""

    code = "idempotency-key-reused"


@dataclass(frozen=True)
class Claim:
    """A principal's key and the digests of its body, the current digest key's first."""

    principal: str
    key: str
    bodies: tuple[str, ...]


def answers(session: Session, claims: Iterable[Claim]) -> dict[tuple[str, str], IdempotencyKey]:
    """Return the rows of claims that were answered before, by (principal, key)."""
    wanted = {(claim.principal, claim.key) for claim in claims}
    if not wanted:
        return {}
    rows = session.scalars(
        select(IdempotencyKey).where(
            tuple_(IdempotencyKey.principal, IdempotencyKey.key).in_(sorted(wanted))
        )
    )
    return {(row.principal, row.key): row for row in rows}


def replay(row: IdempotencyKey, claim: Claim) -> Mapping[str, Any]:
    """Return the earlier answer; raise ``KeyReused`` if the body was another one."""
    if row.body_digest not in claim.bodies:
        raise KeyReused(
            "this Idempotency-Key was used with another body; take a new key for a new request"
        )
    return row.answer


def remember(claim: Claim, answer: Mapping[str, Any], *, now: datetime) -> IdempotencyKey:
    """Return the row that stores an answer; the caller adds it in the answer's transaction."""
    return IdempotencyKey(
        principal=claim.principal,
        key=claim.key,
        body_digest=claim.bodies[0],
        answer=dict(answer),
        created_at=now,
    )


def prune(session: Session, *, before: datetime) -> int:
    """Delete answers given before a moment; return how many."""
    gone = session.execute(
        delete(IdempotencyKey)
        .where(IdempotencyKey.created_at < before)
        .returning(IdempotencyKey.key)
        .execution_options(synchronize_session=False)
    )
    return len(gone.all())
