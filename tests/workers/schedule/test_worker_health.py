"""Whether a worker lives, as a health check asks: by its heartbeat, busy or not."""

from __future__ import annotations

import logging
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, select, update
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from service.ledger.database.tables import Worker
from service.ledger.registry import heartbeats
from service.settings import Settings
from tests.factories import NOW
from tests.workers.jobs.test_interrupted_training import train_for_long, trains
from tests.workers.jobs.test_train import queue
from tests.workers.place import Place
from tests.workers.schedule.test_lanes import DEADLINE_SECONDS, running, until
from workers import cli, names
from workers.jobs import train
from workers.schedule import heartbeat, lanes

#: It watches real processes for long: `make test-faults`.
pytestmark = pytest.mark.slow


def health(database: Engine, **settings: str) -> int:
    """Exit code of the check on a database."""
    url = database.url.render_as_string(hide_password=False)
    named = {f"UNLEARN_{name.upper()}": value for name, value in settings.items()}
    found = CliRunner().invoke(
        cli.app, ["worker-health"], env={"UNLEARN_DATABASE_URL": url} | named
    )
    assert found.exit_code == 0 or "no worker on" in found.output, found.output
    return found.exit_code


def beat(database: Engine, name: str) -> None:
    with Session(database) as session, session.begin():
        heartbeats.beat(session, name, started_at=NOW, busy_since={}, code_version="1")


def test_worker_on_this_machine_is_looked_for_and_no_other(database: Engine) -> None:
    assert health(database) == 1
    beat(database, f"{names.machine()}-further-1-abcdef")
    assert health(database) == 1
    beat(database, names.new())
    assert health(database) == 0


def test_worker_that_was_not_seen_lately_does_not_live(database: Engine) -> None:
    name = names.new()
    beat(database, name)
    assert health(database) == 0
    with Session(database) as session, session.begin():
        seen = session.get_one(Worker, name).seen_at
        long_ago = seen - timedelta(seconds=heartbeats.MISSED_BEATS * 5 + 1)
        session.execute(update(Worker).values(seen_at=long_ago))
    assert health(database) == 1
    # Who beats more seldom may be silent for longer.
    assert health(database, heartbeat_seconds="60") == 0


def test_real_worker_is_healthy_in_a_long_training_and_not_when_it_is_gone(
    town: Place, tmp_path: Path
) -> None:
    settings = town.settings.model_copy(
        update={"poll_seconds": 0.1, "heartbeat_seconds": 1.0, "training_state_seconds": 0.0}
    )

    def healthy() -> bool:
        return health(town.runtime.engine, heartbeat_seconds="1") == 0

    train_for_long(town)
    with running(settings, tmp_path / "worker.log") as worker:
        until(healthy, "a heartbeat")
        run_id = queue(town)
        until(lambda: trains(town, run_id), "a first epoch")
        begun = _seen(town.runtime.engine)
        until(lambda: _seen(town.runtime.engine) > begun, "another heartbeat")
        assert healthy()
        worker.kill()
        until(lambda: not healthy(), "the end of its life")


def test_training_shows_that_its_lane_goes_on(town: Place) -> None:
    train_for_long(town)
    queue(town)
    lane = lanes.Lane(town.runtime, (train.run_due,))
    working = threading.Thread(target=lane.run, daemon=True)
    working.start()
    until(lambda: lane.busy_since is not None, "the beginning")
    for _ in range(5):
        before = town.runtime.moved_at
        until(lambda before=before: town.runtime.moved_at > before, "a look at the training")
    assert not lane.hangs()
    town.runtime.stopped_at = time.monotonic() - 10 * town.settings.grace_seconds
    town.runtime.stop.set()
    working.join(DEADLINE_SECONDS)
    assert not working.is_alive()


def test_lane_that_is_busy_and_shows_nothing_hangs(town: Place) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def recipe(_runtime: object) -> None:
        entered.set()
        go_on.wait(DEADLINE_SECONDS)

    lane = lanes.Lane(town.runtime, (recipe,))
    town.runtime.moved_at -= lanes.HUNG_SECONDS + 1
    assert not lane.hangs()  # it has nothing to do
    working = threading.Thread(target=lane.run)
    working.start()
    entered.wait(DEADLINE_SECONDS)
    assert not lane.hangs()  # it has only begun
    town.runtime.moved_at -= lanes.HUNG_SECONDS + 1
    assert lane.hangs()
    with town.runtime.session():
        assert not lane.hangs()
    go_on.set()
    working.join(DEADLINE_SECONDS)
    assert not lane.hangs()


def test_worker_whose_lanes_all_hang_is_not_healthy_until_one_goes_on(
    settings: Settings, database: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    url = database.url.render_as_string(hide_password=False)
    quick = settings.model_copy(update={"heartbeat_seconds": 0.1, "database_url": url})
    hangs = threading.Event()
    beating = heartbeat.Heartbeat(quick, names.new(), dict, lambda: not hangs.is_set())

    def healthy() -> bool:
        return health(database, heartbeat_seconds="0.1") == 0

    with caplog.at_level(logging.WARNING, "workers.schedule.heartbeat"):
        beating.start()
        until(healthy, "a heartbeat")
        hangs.set()
        until(lambda: "every lane hangs" in caplog.text, "a word about it")
    until(lambda: not healthy(), "the end of its life")
    hangs.clear()
    until(healthy, "another heartbeat")
    beating.close()


def _seen(database: Engine) -> datetime:
    with Session(database) as session:
        return session.scalars(select(Worker.seen_at)).one()
