"""API keys: created once, shown once, stored as a hash.

A secret is 256 random bits, so a single SHA-256 is enough: slow password hashes protect secrets
that people choose and an attacker can guess, and here would only slow every request.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.errors import NotFound, Unprocessable
from service.ledger.audit import chain
from service.ledger.database import db, ids
from service.ledger.database.tables import NAME_LENGTH, ApiKey

TOKEN_PREFIX = "unl_"  # noqa: S105  # the public beginning of every key, not a secret


class Scope(StrEnum):
    """What a key may do."""

    REQUESTS_WRITE = "requests:write"  # ask for deletions, cancel and retry them
    REQUESTS_READ = "requests:read"  # see them
    REQUESTS_APPROVE = "requests:approve"  # approve or deny large ones, readmit
    OPENDSR_WRITE = "opendsr:write"  # ask by OpenDSR; see and cancel what keys of its name asked
    MODELS_WRITE = "models:write"  # datasets, models, training, imports
    MODELS_READ = "models:read"  # see them, download checkpoints
    TEXTS_READ = "texts:read"  # texts that datasets keep of their rows
    MODELS_PROMOTE = "models:promote"  # decide what is live: move the alias, import as production
    AUDIT_READ = "audit:read"  # audit events, reports, per-record scores
    WEBHOOKS_WRITE = "webhooks:write"  # see, add, change and remove webhooks
    METRICS_READ = "metrics:read"  # /metrics: counts, ages and sizes
    ADMIN = "admin"  # everything


@dataclass(frozen=True)
class Presented:
    """A key as a client sends it, with its secret already hashed."""

    id: str
    secret_hash: bytes


def create(
    session: Session,
    name: str,
    scopes: Iterable[str],
    expires_at: datetime | None = None,
    *,
    actor: str,
    now: datetime | None = None,
) -> tuple[ApiKey, str]:
    """Create a key; return its row and its token, which cannot be recovered later."""
    row_id = ids.new("key")
    secret = secrets.token_urlsafe(32)
    row = ApiKey(
        id=row_id,
        name=_checked_name(name),
        secret_hash=_hash(secret),
        scopes=_checked_scopes(scopes),
        created_at=now or db.now(),
        expires_at=expires_at,
        revoked_at=None,
    )
    session.add(row)
    session.flush()
    data = {"name": row.name, "scopes": row.scopes}
    chain.append(
        session,
        actor=actor,
        action=chain.Action.KEY_CREATED,
        subject=f"key:{row_id}",
        data=data,
    )
    return row, f"{TOKEN_PREFIX}{row_id.removeprefix('key_')}_{secret}"


def revoke(session: Session, key_id: str, *, actor: str, now: datetime | None = None) -> ApiKey:
    """Revoke a key; revoking it again changes nothing."""
    row = get(session, key_id)
    if row.revoked_at is None:
        row.revoked_at = now or db.now()
        session.flush()
        chain.append(
            session,
            actor=actor,
            action=chain.Action.KEY_REVOKED,
            subject=f"key:{key_id}",
            data={"name": row.name},
        )
    return row


def get(session: Session, key_id: str) -> ApiKey:
    """Return one key's row."""
    row = session.get(ApiKey, key_id)
    if row is None:
        raise NotFound("no API key has this id; list them with: unlearn keys list")
    return row


def find(session: Session, key_id: str) -> ApiKey | None:
    """Return one key's row, or None."""
    return session.get(ApiKey, key_id)


def listing(session: Session) -> Sequence[ApiKey]:
    """Return every key, oldest first."""
    return session.scalars(select(ApiKey).order_by(ApiKey.id)).all()


def parse(token: str) -> Presented | None:
    """Return the parts of a token, or None when it does not look like one."""
    if not token.startswith(TOKEN_PREFIX) or len(token) > 200 or not token.isascii():
        return None
    public, _, secret = token.removeprefix(TOKEN_PREFIX).partition("_")
    if not public.isalnum() or not secret:
        return None
    return Presented(f"key_{public}", _hash(secret))


def opens(row: ApiKey, presented: Presented, *, now: datetime) -> bool:
    """Return whether the secret matches and the key is valid."""
    fits = hmac.compare_digest(row.secret_hash, presented.secret_hash)
    return fits and is_valid(row, now=now)


def is_valid(row: ApiKey, *, now: datetime) -> bool:
    """Return whether the key is neither expired nor revoked."""
    return row.revoked_at is None and (row.expires_at is None or row.expires_at > now)


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _checked_name(name: str) -> str:
    if not name or len(name) > NAME_LENGTH or not name.isprintable():
        raise Unprocessable(f"a key's name has 1 to {NAME_LENGTH} printable characters")
    return name


def _checked_scopes(scopes: Iterable[str]) -> list[str]:
    wanted = set(scopes)
    unknown = wanted - {scope.value for scope in Scope}
    if unknown or not wanted:
        raise Unprocessable(f"scopes are one or more of: {', '.join(Scope)}")
    return sorted(wanted)
