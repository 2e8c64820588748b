"""What work stands, and held by whom."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import update
from sqlalchemy.orm import Session

from service.ledger.batches import leases
from service.ledger.database import db
from service.ledger.database.states import BatchStatus, ErasureStatus
from service.ledger.database.tables import Suppression, Worker
from service.ledger.registry import heartbeats
from service.ledger.reports import workload
from tests import factories


def test_workers_are_listed_with_those_that_were_lost_lately(session: Session) -> None:
    since = db.now() - timedelta(minutes=3)
    for name in ("a", "b", "c"):
        heartbeats.beat(
            session,
            name,
            started_at=since,
            busy_since={"deletions": since, "background": None},
            code_version="1",
        )
    beat = 60.0
    for name, missed in (("b", heartbeats.MISSED_BEATS + 1), ("c", heartbeats.MISSED_BEATS - 1)):
        seen_at = db.now() - timedelta(seconds=missed * beat)
        session.execute(update(Worker).where(Worker.name == name).values(seen_at=seen_at))
    found = workload.workers(session, beat_seconds=beat)
    assert [(one.name, one.alive) for one in found] == [("a", True), ("b", False), ("c", True)]
    first = found[0]
    assert first.busy_since == {"background": None, "deletions": since}


def test_leases_name_what_they_are_on_and_only_those_that_are_held(session: Session) -> None:
    data = factories.dataset(session, name="faces")
    model = factories.model(session, data, name="who")
    now = db.now()
    for key, seconds in (
        (leases.of_model(model.id), 60),
        (leases.of_ingest(data.id), 60),
        (leases.of_run("run_1"), 60),
        (leases.of_model(9_999), -60),
    ):
        assert leases.acquire(session, key, owner="w", seconds=seconds, now=now) is not None
    found = {one.what: one.owner for one in workload.leases(session)}
    assert found == {"model who": "w", "ingest of faces": "w", "run:run_1": "w"}


def test_the_queue_counts_open_shares_by_model_oldest_first(session: Session) -> None:
    data = factories.dataset(session)
    early, late, done = (factories.model(session, data, name=one) for one in ("b", "a", "c"))
    hours = iter(range(10))
    for model, status in (
        (early, ErasureStatus.PENDING),
        (early, ErasureStatus.CLAIMED),
        (late, ErasureStatus.NEEDS_REVIEW),
        (late, ErasureStatus.PENDING),
        (done, ErasureStatus.COMPLETED),
    ):
        asked = factories.request(session, data)
        moment = factories.NOW + timedelta(hours=next(hours))
        factories.erasure(session, asked, model, status=status, created_at=moment)
    assert workload.queues(session) == [
        workload.Queue("b", 1, 1, 0, factories.NOW),
        workload.Queue("a", 1, 0, 1, factories.NOW + timedelta(hours=2)),
    ]


def test_batches_that_run_or_are_held_are_under_way(session: Session) -> None:
    data = factories.dataset(session)
    for name, status in (
        ("runs", BatchStatus.RUNNING),
        ("held", BatchStatus.HELD),
        ("done", BatchStatus.COMPLETED),
    ):
        model = factories.model(session, data, name=name)
        base = factories.version(session, model)
        factories.batch(session, model, base, status=status, trains=name == "held")
    found = {one.model: (one.status, one.trains) for one in workload.under_way(session)}
    assert found == {"runs": (BatchStatus.RUNNING, False), "held": (BatchStatus.HELD, True)}


def test_suppressed_rows_are_those_of_the_dataset_that_are_in_force(session: Session) -> None:
    data, other = (factories.dataset(session) for _ in range(2))
    for dataset, lifted in ((data, None), (data, None), (data, factories.NOW), (other, None)):
        session.add(
            Suppression(
                kind="row",
                digest="d",
                dataset_id=dataset.id,
                row=1,
                created_at=factories.NOW,
                lifted_at=lifted,
            )
        )
    session.flush()
    assert workload.suppressed_rows(session, data) == 2
