"""A worker looks at the due dates once a minute, and two workers do not warn twice."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Engine, select

from service.ledger.batches import leases
from service.ledger.database.tables import AuditEvent
from tests import factories
from tests.workers.shop import Shop
from workers.jobs import deadlines
from workers.runtime import Runtime


def overdue(shop: Shop) -> None:
    with shop.runtime.session() as session:
        late = shop.runtime.now() - timedelta(days=1)
        factories.request(session, factories.dataset(session), due_at=late)


def warnings(shop: Shop) -> int:
    with shop.runtime.session() as session:
        wanted = select(AuditEvent.seq).where(AuditEvent.action == "deletion_request:overdue")
        return len(session.scalars(wanted).all())


def test_due_dates_are_looked_at_once_a_minute_by_one_worker(shop: Shop, database: Engine) -> None:
    overdue(shop)
    assert deadlines.run_due(shop.runtime)
    assert warnings(shop) == 1
    overdue(shop)
    for worker in (shop.runtime, Runtime.make(shop.settings, engine=database)):
        assert not deadlines.run_due(worker)
    assert warnings(shop) == 1
    with shop.runtime.session() as session:  # as if the minute had passed
        leases.revoke(session, deadlines.LEASE, now=shop.runtime.now())
    assert deadlines.run_due(shop.runtime)
    assert warnings(shop) == 2
