"""Webhooks as the ledger keeps them."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger.database import ids
from service.ledger.database.states import WebhookStatus
from service.ledger.database.tables import Webhook, WebhookDelivery
from service.ledger.webhooks import endpoints
from tests.factories import NOW


def _delivered(session: Session) -> Webhook:
    """A webhook to which one event was delivered."""
    row = Webhook(
        id=ids.new("wh"),
        url="https://example.org/",
        status=WebhookStatus.ACTIVE,
        scheme="v1",
        secret=b"sealed",
        seq=0,
        created_at=NOW,
        created_by="key:k",
    )
    session.add(row)
    session.flush()
    session.add(
        WebhookDelivery(
            webhook_id=row.id, seq=1, event_id="e", type="t", at=NOW, seconds=0.1, answered=200
        )
    )
    session.flush()
    return row


def test_a_webhook_is_removed_with_the_list_of_its_deliveries_and_no_other(
    session: Session,
) -> None:
    gone, kept = _delivered(session), _delivered(session)
    endpoints.remove(session, gone.id, actor="key:k")
    session.commit()
    assert session.scalars(select(Webhook.id)).all() == [kept.id]
    assert session.scalars(select(WebhookDelivery.webhook_id)).all() == [kept.id]
