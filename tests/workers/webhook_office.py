"""A worker that delivers to receivers on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select

from service.ledger.audit import chain
from service.ledger.audit.chain import Action
from service.ledger.database.tables import AuditEvent, Webhook, WebhookDelivery
from service.ledger.webhooks import endpoints
from service.ledger.webhooks.destinations import Rules
from service.ledger.webhooks.outbox import Backoff
from service.ledger.webhooks.sealing import Sealer
from service.settings import Settings
from tests.factories import NOW
from tests.workers import receiver
from tests.workers.receiver import Receiver
from workers.jobs.webhooks import Sender
from workers.runtime import Runtime


@dataclass
class Office:
    """A worker that delivers to receivers on this machine, and a clock to set."""

    runtime: Runtime
    receivers: ExitStack
    now: datetime = NOW
    sender: Sender = field(init=False)
    secrets: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sender = Sender(
            self.runtime,
            Backoff(first_seconds=10, factor=3),
            jitter=lambda: 0.5,
            clock=lambda: self.now,
            round_seconds=600,
            turn_seconds=600,
        )

    @property
    def settings(self) -> Settings:
        return self.runtime.settings

    def receiver(self) -> Receiver:
        return self.receivers.enter_context(receiver.running())

    def add(self, to: Receiver | str, **new: Any) -> str:
        url = to if isinstance(to, str) else to.url
        with self.runtime.session() as session:
            row, secret = endpoints.create(
                session,
                endpoints.New(url, **new),
                rules=Rules.from_settings(self.settings),
                sealer=Sealer.from_settings(self.settings),
                actor="key:k",
                now=self.now,
            )
        self.secrets[row.id] = secret or ""
        return row.id

    def happen(self, *requests: str, action: Action = Action.DELETION_REQUEST_COMPLETED) -> None:
        with self.runtime.session() as session:
            for one in requests:
                subject = f"deletion_request:{one}"
                chain.append(session, actor="worker:w", action=action, subject=subject, data={})

    def do(self, change: Callable[..., Any], webhook_id: str, **given: Any) -> Any:
        with self.runtime.session() as session:
            return change(session, webhook_id, actor="key:k", **given)

    def send(self) -> bool:
        return self.sender.run()

    def later(self, seconds: float) -> bool:
        self.now += timedelta(seconds=seconds)
        return self.send()

    def row(self, webhook_id: str) -> Webhook:
        with self.runtime.session() as session:
            return endpoints.get(session, webhook_id)

    def attempts(self, webhook_id: str) -> list[WebhookDelivery]:
        with self.runtime.session() as session:
            found = endpoints.deliveries(session, webhook_id, before=None, limit=200, failed=None)
        return list(reversed(found))

    def lines(self) -> Sequence[AuditEvent]:
        with self.runtime.session() as session:
            return session.scalars(select(AuditEvent).order_by(AuditEvent.seq)).all()
