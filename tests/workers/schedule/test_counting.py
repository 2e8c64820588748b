"""A worker writes what it counts with its heartbeats, and sums never fall."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import Engine, delete, update
from sqlalchemy.orm import Session

from service import broker
from service.ledger.database.tables import Worker
from service.ledger.registry import counts, heartbeats
from service.settings import Settings
from tests.workers.place import Place
from workers import names
from workers.schedule import heartbeat, lanes

DEADLINE_SECONDS = 60.0


def until(happened: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE_SECONDS
    while not happened():
        assert time.monotonic() < end, f"not in time: {what}"
        time.sleep(0.02)


def test_counts_survive_a_lost_row_and_the_end_of_the_worker(
    settings: Settings, database: Engine
) -> None:
    url = database.url.render_as_string(hide_password=False)
    quick = settings.model_copy(update={"heartbeat_seconds": 0.05, "database_url": url})
    counter = counts.Counter()
    name = names.new()

    def summed() -> float:
        with Session(database) as session:
            return sum(counts.of(counts.BATCHES, heartbeats.counted(session)).values())

    def is_there() -> bool:
        with Session(database) as session:
            return session.get(Worker, name) is not None

    beating = heartbeat.Heartbeat(quick, name, dict, counter=counter)
    counter.add(counts.BATCHES, "recorded", by=2)
    beating.start()
    until(lambda: summed() == 2, "a first count")
    # Another worker finds its row an hour old and removes it.
    with Session(database) as session, session.begin():
        long_ago = heartbeats.server_time(session) - heartbeats.KEPT - timedelta(seconds=1)
        session.execute(update(Worker).where(Worker.name == name).values(seen_at=long_ago))
        heartbeats.beat(session, "other", started_at=long_ago, busy_since={}, code_version="1")
        session.execute(delete(Worker).where(Worker.name == "other"))
    until(is_there, "a new row")
    assert summed() == 2
    counter.add(counts.BATCHES, "failed")
    until(lambda: summed() == 3, "what was counted since")
    counter.add(counts.BATCHES, "failed")
    beating.close()
    assert not is_there()
    assert summed() == 4


def test_a_batch_counts_its_phases_calls_and_outcome(town: Place) -> None:
    town.ask(town.training_rows()[0])
    lanes.make(broker.DELETIONS, town.runtime).run()
    assert len(town.forgotten()) == 1
    counted = town.runtime.counter.now()
    phases = {labels[0] for labels in counts.of(counts.PHASES, counted)}
    assert phases == {"claim", "load", "update", "store", "verify", "record", "erase"}
    assert counts.of(counts.BATCHES, counted) == {("recorded",): 1}
    assert counts.of(counts.CALLS, counted)["unlearn", "answered"] == 1
    in_phases = sum(
        count for labels, count in counts.of(counts.PHASES, counted).items() if labels[1] == "sum"
    )
    [busy] = counts.of(counts.BUSY, counted).values()
    assert 0 < in_phases <= busy


def test_a_job_that_fails_is_counted(town: Place) -> None:
    def recipe(_runtime: object) -> None:
        raise ValueError

    lanes.Lane(town.runtime, (recipe,), name="events").run()
    assert counts.of(counts.JOB_FAILURES, town.runtime.counter.now()) == {("events",): 1}
