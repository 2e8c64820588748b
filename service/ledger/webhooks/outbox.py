"""The outbox: what each webhook is to be told next, and what became of an attempt.

A webhook stands at a line of the audit chain. It is told of the events after it, one by one in the
order of the lines; an event that cannot be delivered is tried again, and the later ones wait for
it. The place moves when deliveries are recorded, so a sender that dies in between repeats some and
loses none. One sender at a time works for a webhook, under its lease.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from service.ledger.batches import leases
from service.ledger.database import db
from service.ledger.database.states import WebhookStatus
from service.ledger.database.tables import AuditEvent, AuditHead, Webhook, WebhookDelivery
from service.ledger.webhooks import endpoints, events
from service.ledger.webhooks.events import Event
from service.ledger.webhooks.sealing import NotOpened, Sealer

#: Audit lines read at once.
WINDOW = 500
#: How long attempts are listed.
KEPT = timedelta(days=30)

GONE = "its receiver answered 410: it wants no more deliveries"


@dataclass(frozen=True)
class Backoff:
    """When a delivery that failed is tried again, and when the webhook is given up."""

    first_seconds: float = 5.0
    factor: float = 4.0
    longest_seconds: float = 12 * 3600.0
    #: Of uninterrupted failure.
    give_up_seconds: float = 4 * 86_400.0

    def pause(self, failures: int, *, jitter: float, asked: float | None = None) -> timedelta:
        """Return the pause after so many failures in a row.

        ``jitter`` in [0, 1) spreads it by a fifth to either side. ``asked``: the receiver's
        Retry-After in seconds, which may lengthen it.
        """
        steps = min(failures - 1, 32)
        planned = min(self.first_seconds * self.factor**steps, self.longest_seconds)
        spread = planned * (0.8 + 0.4 * jitter)
        return timedelta(seconds=max(spread, min(asked or 0.0, self.longest_seconds)))


@dataclass(frozen=True)
class Work:
    """What a webhook is told next."""

    webhook_id: str
    url: str = field(repr=False)
    #: The secrets that sign, the current one first.
    secrets: Sequence[str] = field(repr=False)
    #: The line at which the webhook stands.
    seq: int
    events: Sequence[Event]
    #: The line at which it stands when all of them are delivered.
    until: int


@dataclass(frozen=True)
class Attempt:
    """One attempt to deliver an event."""

    event: Event
    at: datetime
    seconds: float
    #: The receiver's HTTP status; None: no answer.
    answered: int | None = None
    #: Why it failed; None: it was delivered.
    error: str | None = None
    #: Its Retry-After, in seconds.
    retry_after: float | None = None


def due(session: Session, *, now: datetime) -> list[str]:
    """Return ids of the webhooks to which something may have to be sent now.

    First come those whose last delivery is longest ago: receivers that are slow and always have
    more to be told do not keep the others from a connection.
    """
    wanted = (
        select(Webhook.id)
        .join(AuditHead, AuditHead.seq > Webhook.seq)
        .where(
            db.among(Webhook.status, WebhookStatus.ACTIVE),
            or_(Webhook.not_before.is_(None), Webhook.not_before <= now),
        )
        .order_by(Webhook.delivered_at.asc().nulls_first(), Webhook.id)
    )
    return list(session.scalars(wanted))


def next_work(session: Session, webhook_id: str, *, sealer: Sealer, now: datetime) -> Work | None:
    """Return what the webhook is told next; None if nothing is due now.

    Raise ``sealing.NotOpened`` if no key in force opens its secret.
    """
    row = session.get(Webhook, webhook_id, populate_existing=True)
    waits = row is not None and row.not_before is not None and row.not_before > now
    if row is None or row.status != WebhookStatus.ACTIVE or waits:
        return None
    lines = session.scalars(
        select(AuditEvent).where(AuditEvent.seq > row.seq).order_by(AuditEvent.seq).limit(WINDOW)
    ).all()
    if not lines:
        return None
    told = [event for line in lines if (event := events.of_line(line)) and _wants(row, event)]
    return Work(row.id, row.url, _secrets(row, sealer, now), row.seq, told, lines[-1].seq)


def skip(session: Session, work: Work) -> None:
    """Move a webhook past lines that have no event for it, unless it was moved meanwhile."""
    session.execute(
        update(Webhook)
        .where(Webhook.id == work.webhook_id, Webhook.seq == work.seq)
        .values(seq=work.until)
        .execution_options(synchronize_session=False)
    )


def record(
    session: Session,
    webhook_id: str,
    attempts: Sequence[Attempt],
    *,
    held: leases.Held,
    stands_at: int,
    reached: int,
    backoff: Backoff,
    jitter: float,
    sealer: Sealer,
    now: datetime,
) -> bool:
    """Record attempts (one or more) and move the webhook from line ``stands_at`` to ``reached``.

    Return whether its sender may go on: not after a failure, nor when the webhook was moved or
    removed meanwhile. ``LeaseLost``: another sender works for it.
    """
    leases.hold(session, held)
    row = session.get(Webhook, webhook_id, with_for_update=True, populate_existing=True)
    if row is None:
        return False
    session.add_all(_listed(row, one) for one in attempts)
    moved = row.seq != stands_at
    if not moved:
        row.seq = reached
    last = attempts[-1]
    if last.error is None:
        row.failures, row.failing_since, row.not_before = 0, None, None
        row.delivered_at = last.at
        _seal_again(row, sealer)
        return not moved
    if not moved:
        _fail(session, row, last, backoff=backoff, jitter=jitter, actor=held.owner, now=now)
    return False


def forget_old(session: Session, *, now: datetime) -> None:
    """Remove attempts that were listed for long enough."""
    session.execute(delete(WebhookDelivery).where(WebhookDelivery.at < now - KEPT))


def _wants(row: Webhook, event: Event) -> bool:
    if event.webhook is not None:
        return event.webhook == row.id
    return row.types is None or event.type.value in row.types


def _secrets(row: Webhook, sealer: Sealer, now: datetime) -> list[str]:
    found = [sealer.open(row.secret, owner=row.id)]
    overlaps = row.previous_until is not None and row.previous_until > now
    if overlaps and row.previous_secret is not None:
        with suppress(NotOpened):  # the current one is enough
            found.append(sealer.open(row.previous_secret, owner=row.id))
    return found


def _seal_again(row: Webhook, sealer: Sealer) -> None:
    """Encrypt the secrets under the current key if they are not, and drop one that has expired."""
    if row.previous_until is not None and row.previous_until <= (
        row.delivered_at or row.created_at
    ):
        row.previous_secret = row.previous_until = None
    if not sealer.is_current(row.secret, owner=row.id):
        opened = sealer.open(row.secret, owner=row.id)
        row.secret = sealer.seal(opened, owner=row.id)
        if row.previous_secret is not None:
            try:
                opened = sealer.open(row.previous_secret, owner=row.id)
                row.previous_secret = sealer.seal(opened, owner=row.id)
            except NotOpened:
                row.previous_secret = row.previous_until = None


def _fail(
    session: Session,
    row: Webhook,
    last: Attempt,
    *,
    backoff: Backoff,
    jitter: float,
    actor: str,
    now: datetime,
) -> None:
    row.failures += 1
    row.failing_since = row.failing_since or last.at
    row.not_before = now + backoff.pause(row.failures, jitter=jitter, asked=last.retry_after)
    session.flush()
    because = None
    if last.answered == 410:
        because = GONE
    elif now - row.failing_since >= timedelta(seconds=backoff.give_up_seconds):
        days = backoff.give_up_seconds / 86_400
        because = (
            f"every attempt failed for {days:g} days, the last one on {last.event.id}: {last.error}"
        )
    if because is not None:
        endpoints.disable(session, row.id, because=because, actor=f"worker:{actor}", now=now)


def _listed(row: Webhook, attempt: Attempt) -> WebhookDelivery:
    return WebhookDelivery(
        webhook_id=row.id,
        seq=attempt.event.seq,
        event_id=attempt.event.id,
        type=attempt.event.type.value,
        at=attempt.at,
        seconds=attempt.seconds,
        answered=attempt.answered,
        error=attempt.error,
    )
