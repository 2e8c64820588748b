"""Sign-ins to the console: begun with an API key, valid for a fixed time, ended by signing out.

The browser keeps a secret of 256 random bits; the ledger keeps its SHA-256. A session has no rights
of its own: it ends with its key, and its key's scopes are read again for every page.
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from service.ledger.audit import chain
from service.ledger.database.tables import ApiKey, ConsoleSession
from service.ledger.registry import keys


def begin(session: Session, key_id: str, *, minutes: float, now: datetime) -> str:
    """Begin a session of a key; return its new secret, which cannot be recovered later.

    Remove the sessions that have expired.
    """
    session.execute(delete(ConsoleSession).where(ConsoleSession.expires_at <= now))
    secret = secrets.token_urlsafe(32)
    session.add(
        ConsoleSession(
            secret_hash=_hash(secret),
            key_id=key_id,
            created_at=now,
            expires_at=now + timedelta(minutes=minutes),
        )
    )
    session.flush()
    _say(session, key_id, chain.Action.KEY_SIGNED_IN)
    return secret


def find(session: Session, secret: str, *, now: datetime) -> tuple[ConsoleSession, ApiKey] | None:
    """Return the session of a secret and its key; None if either is not valid any more."""
    found = session.execute(
        select(ConsoleSession, ApiKey)
        .join(ApiKey, ApiKey.id == ConsoleSession.key_id)
        .where(ConsoleSession.secret_hash == _hash(secret), ConsoleSession.expires_at > now)
    ).one_or_none()
    if found is None or not keys.is_valid(found[1], now=now):
        return None
    return found[0], found[1]


def end(session: Session, secret: str) -> None:
    """End a session; one that has ended already stays so."""
    key_id = session.scalar(
        delete(ConsoleSession)
        .where(ConsoleSession.secret_hash == _hash(secret))
        .returning(ConsoleSession.key_id)
        .execution_options(synchronize_session=False)
    )
    if key_id is not None:
        _say(session, key_id, chain.Action.KEY_SIGNED_OUT)


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _say(session: Session, key_id: str, action: chain.Action) -> None:
    subject = f"key:{key_id}"
    chain.append(session, actor=subject, action=action, subject=subject, data={})
