"""The lane of events: what a due date calls for is written and delivered by one look."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Engine

from service import broker
from service.ledger.webhooks import endpoints
from service.ledger.webhooks.destinations import Rules
from service.ledger.webhooks.sealing import Sealer
from service.settings import Settings
from tests import factories
from tests.workers import receiver
from workers.runtime import Runtime
from workers.schedule import lanes


def test_an_overdue_request_is_told_of_by_a_lane_of_its_own(
    settings: Settings, database: Engine
) -> None:
    allowed = {
        "webhook_http": True,
        "webhook_networks": "127.0.0.1/32",
        "webhook_timeout_seconds": 60.0,
    }
    runtime = Runtime.make(settings.model_copy(update=allowed), engine=database)
    with receiver.running() as to:
        with runtime.session() as session:
            endpoints.create(
                session,
                endpoints.New(to.url),
                rules=Rules.from_settings(runtime.settings),
                sealer=Sealer.from_settings(runtime.settings),
                actor="key:k",
                now=runtime.now(),
            )
            late = runtime.now() - timedelta(days=1)
            request = factories.request(session, factories.dataset(session), due_at=late)
        lanes.make(broker.EVENTS, runtime).run()
        assert [
            (one.event["type"], one.event["data"]["deletion_request"]) for one in to.received
        ] == [("unlearn.deletion_request.overdue", request.id)]
