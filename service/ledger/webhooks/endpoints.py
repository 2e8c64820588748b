"""Webhooks as their owners see them: add, change, remove, rotate the secret, replay, test."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from service.errors import Conflict, NotFound, Unprocessable
from service.ledger.audit import chain, machines
from service.ledger.batches import leases
from service.ledger.database import ids
from service.ledger.database.states import WebhookStatus
from service.ledger.database.tables import AuditEvent, AuditHead, Webhook, WebhookDelivery
from service.ledger.webhooks import destinations, signatures
from service.ledger.webhooks.destinations import Rules
from service.ledger.webhooks.events import EventType
from service.ledger.webhooks.sealing import Sealer
from service.ledger.webhooks.signatures import Scheme

#: Each is followed by every worker, so there is a limit.
MAX_WEBHOOKS = 100
#: How long the replaced secret signs as well, unless its owner says otherwise.
OVERLAP = timedelta(hours=24)
LONGEST_OVERLAP = timedelta(days=7)


@dataclass(frozen=True)
class New:
    """What a webhook is made of."""

    url: str = field(repr=False)  # it may hold a secret of the receiver
    description: str | None = None
    types: Sequence[str] | None = None
    scheme: Scheme = Scheme.HMAC


def lease_of(webhook_id: str) -> str:
    """Return the key of the lease under which a webhook is delivered to."""
    return f"webhook:{webhook_id}"


def create(
    session: Session, new: New, *, rules: Rules, sealer: Sealer, actor: str, now: datetime
) -> tuple[Webhook, str | None]:
    """Add a webhook for what happens from now on; return it and its secret, if it is shared.

    The secret cannot be shown again. Raise ``BadDestination`` for a URL that is not accepted.
    """
    destinations.check(new.url, rules)  # before the transaction: it may ask the resolver
    if (session.scalar(select(func.count()).select_from(Webhook)) or 0) >= MAX_WEBHOOKS:
        raise Conflict(f"there are {MAX_WEBHOOKS} webhooks; remove one first")
    row_id, secret = ids.new("wh"), signatures.new_secret(new.scheme)
    row = Webhook(
        id=row_id,
        url=new.url,
        description=new.description,
        types=_checked(new.types),
        status=WebhookStatus.ACTIVE,
        scheme=new.scheme.value,
        public_key=signatures.public_key(secret),
        secret=sealer.seal(secret, owner=row_id),
        seq=head(session),
        created_at=now,
        created_by=actor,
    )
    session.add(row)
    session.flush()
    _say(
        session,
        row,
        chain.Action.WEBHOOK_CREATED,
        actor,
        url_sha256=_digest(row.url),
        types=row.types,
        scheme=row.scheme,
    )
    return row, None if row.public_key else secret


def get(session: Session, webhook_id: str) -> Webhook:
    """Return one webhook; raise ``NotFound`` if there is none."""
    row = session.get(Webhook, webhook_id)
    if row is None:
        raise NotFound("no webhook has this id; GET /v1/webhooks lists them")
    return row


def listing(session: Session, *, after: str | None, limit: int) -> Sequence[Webhook]:
    """Return webhooks, oldest first, from after an id on."""
    wanted = select(Webhook).order_by(Webhook.id).limit(limit)
    if after is not None:
        wanted = wanted.where(Webhook.id > after)
    return session.scalars(wanted).all()


def deliveries(
    session: Session, webhook_id: str, *, before: int | None, limit: int, failed: bool | None
) -> Sequence[WebhookDelivery]:
    """Return attempts of a webhook, newest first; those that failed, or succeeded, if asked to."""
    wanted = select(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook_id)
    if before is not None:
        wanted = wanted.where(WebhookDelivery.id < before)
    if failed is not None:
        error = WebhookDelivery.error
        wanted = wanted.where(error.is_not(None) if failed else error.is_(None))
    return session.scalars(wanted.order_by(WebhookDelivery.id.desc()).limit(limit)).all()


def change(
    session: Session,
    webhook_id: str,
    changes: dict[str, Any],
    *,
    rules: Rules,
    actor: str,
    now: datetime,
) -> Webhook:
    """Change ``url``, ``description`` and ``types``; what is not given stays."""
    if "url" in changes:
        destinations.check(changes["url"], rules)
        leases.revoke(session, lease_of(webhook_id), now=now)
    row = _locked(session, webhook_id)
    if "types" in changes:
        changes = {**changes, "types": _checked(changes["types"])}
    for name in ("url", "description", "types"):
        if name in changes:
            setattr(row, name, changes[name])
    if "url" in changes:
        _try_at_once(row)
    session.flush()
    told: dict[str, Any] = {}
    if "url" in changes:
        told["url_sha256"] = _digest(row.url)
    if "types" in changes:
        told["types"] = row.types
    _say(session, row, chain.Action.WEBHOOK_CHANGED, actor, changed=sorted(changes), **told)
    return row


def enable(session: Session, webhook_id: str, *, actor: str) -> Webhook:
    """Have a disabled webhook be told of everything since; of an active one nothing changes."""
    row = _locked(session, webhook_id)
    if row.status != WebhookStatus.ACTIVE:
        machines.webhooks.move(row, WebhookStatus.ACTIVE)
        row.status_reason = None
        _try_at_once(row)
        session.flush()
        _say(session, row, chain.Action.WEBHOOK_ENABLED, actor)
    return row


def disable(
    session: Session, webhook_id: str, *, because: str, actor: str, now: datetime
) -> Webhook:
    """Send a webhook nothing until it is enabled; of a disabled one nothing changes."""
    leases.revoke(session, lease_of(webhook_id), now=now)
    row = _locked(session, webhook_id)
    if row.status != WebhookStatus.DISABLED:
        machines.webhooks.move(row, WebhookStatus.DISABLED)
        row.status_reason = because
        session.flush()
        _say(session, row, chain.Action.WEBHOOK_DISABLED, actor, because=because)
    return row


def remove(session: Session, webhook_id: str, *, actor: str) -> None:
    """Remove a webhook with its secret and the list of its deliveries."""
    row = _locked(session, webhook_id)
    session.execute(delete(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook_id))
    session.delete(row)
    session.flush()
    _say(session, row, chain.Action.WEBHOOK_REMOVED, actor)


def rotate(
    session: Session,
    webhook_id: str,
    *,
    overlap: timedelta = OVERLAP,
    sealer: Sealer,
    actor: str,
    now: datetime,
) -> tuple[Webhook, str | None]:
    """Replace the secret; return the new one, if it is shared. Both sign during the overlap."""
    row = _locked(session, webhook_id)
    secret = signatures.new_secret(Scheme(row.scheme))
    row.previous_secret, row.previous_until = row.secret, now + overlap
    row.secret = sealer.seal(secret, owner=row.id)
    row.public_key = signatures.public_key(secret)
    session.flush()
    _say(
        session,
        row,
        chain.Action.WEBHOOK_SECRET_ROTATED,
        actor,
        overlap_seconds=int(overlap.total_seconds()),
    )
    return row, None if row.public_key else secret


def replay(
    session: Session,
    webhook_id: str,
    *,
    after: int | None = None,
    since: datetime | None = None,
    actor: str,
    now: datetime,
) -> Webhook:
    """Continue after line ``after`` of the audit chain, or with the first line ``since`` a moment.

    Earlier than where the webhook stands: it is told again. Later: it is not told what lies
    between. Raise ``Unprocessable`` for a line that the chain does not have yet.
    """
    # A sender that is at work records nothing more, so that the webhook stays at the new place.
    leases.revoke(session, lease_of(webhook_id), now=now)
    row = _locked(session, webhook_id)
    last = head(session)
    if since is not None:
        first = session.scalar(select(func.min(AuditEvent.seq)).where(AuditEvent.at >= since))
        after = last if first is None else first - 1
    if after is None or after > last:
        raise Unprocessable(
            f"the audit chain ends with line {last}; give this or an earlier one, or a moment"
        )
    before, row.seq = row.seq, after
    _try_at_once(row)
    session.flush()
    _say(session, row, chain.Action.WEBHOOK_REPLAYED, actor, left=before, after=after)
    return row


def test(session: Session, webhook_id: str, *, actor: str) -> Webhook:
    """Have the webhook be told of this test, after everything that happened before it."""
    row = _locked(session, webhook_id)
    if row.status != WebhookStatus.ACTIVE:
        raise Conflict("this webhook is disabled; enable it first (PATCH status)")
    _try_at_once(row)
    session.flush()
    _say(session, row, chain.Action.WEBHOOK_TESTED, actor)
    return row


def head(session: Session) -> int:
    """Return the number of the chain's last line."""
    return session.scalar(select(AuditHead.seq).where(AuditHead.id == 1)) or 0


def _try_at_once(row: Webhook) -> None:
    row.failures, row.failing_since, row.not_before = 0, None, None


def _locked(session: Session, webhook_id: str) -> Webhook:
    row = session.get(Webhook, webhook_id, with_for_update=True, populate_existing=True)
    return row if row is not None else get(session, webhook_id)


def _checked(types: Iterable[str] | None) -> list[str] | None:
    if types is None:
        return None
    wanted = sorted(set(types))
    if not wanted or not set(wanted) <= {one.value for one in EventType}:
        raise Unprocessable(f"types are one or more of: {', '.join(EventType)}; null: all")
    return wanted


def _digest(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()


def _say(session: Session, row: Webhook, action: chain.Action, actor: str, **data: Any) -> None:
    chain.append(session, actor=actor, action=action, subject=f"webhook:{row.id}", data=data)
