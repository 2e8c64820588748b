"""A real worker whose database or broker goes silent: it goes on without a restart."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, make_url, select
from sqlalchemy.orm import Session

from service import broker
from service.ledger.database import db
from service.ledger.database.tables import Dataset, Worker
from service.ledger.registry import datasets, heartbeats
from service.settings import Settings
from tests import proxy
from workers.demo import digits as demo_digits
from workers.embedded import serve

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

DEADLINE_SECONDS = 120


@pytest.fixture
def settings(postgres_database: Engine, tmp_path: Path) -> Settings:
    made = Settings(
        _env_file=None,
        state_dir=tmp_path,
        threads=1,
        device="cpu",
        poll_seconds=0.2,
        lease_seconds=3.0,
        grace_seconds=1.0,
        heartbeat_seconds=0.5,
        database_connect_seconds=2.0,
        database_statement_seconds=1.0,
        database_work_seconds=2.0,
        database_url=postgres_database.url.render_as_string(hide_password=False),
    )
    made.sources.mkdir()
    demo_digits.load().write(made.sources / demo_digits.FILE)
    return made


def test_a_worker_goes_on_when_a_silent_database_answers_again(
    settings: Settings, postgres_database: Engine, tmp_path: Path
) -> None:
    def living() -> bool:
        with Session(postgres_database) as session:
            return bool(heartbeats.living(session, beat_seconds=settings.heartbeat_seconds))

    with proxy.to(postgres_database.url) as network:
        through = settings.model_copy(
            update={"database_url": network.through(postgres_database.url)}
        )
        with _worker(through, tmp_path / "worker.log") as log:
            _ingest(postgres_database, "before")
            _until(living, "a heartbeat")
            network.swallow()
            _until(lambda: not living(), "no heartbeat")
            # Its lanes have met the silence, too, and have given a statement or connection up.
            _until(lambda: "/MainProcess] the database does not answer" in log(), "a lane's word")
            network.forward()
            _until(living, "a heartbeat again")
            _ingest(postgres_database, "after")


def test_a_worker_that_starts_before_its_database_answers_waits_for_it(
    settings: Settings, postgres_database: Engine, tmp_path: Path
) -> None:
    with proxy.to(postgres_database.url) as network:
        network.refuse()
        through = settings.model_copy(
            update={"database_url": network.through(postgres_database.url)}
        )
        with _worker(through, tmp_path / "worker.log") as log:
            _until(lambda: "the database does not answer" in log(), "the first try")
            network.forward()
            _ingest(postgres_database, "digits")


def test_a_worker_finds_its_work_while_the_broker_is_away_or_silent(
    settings: Settings, postgres_database: Engine, redis_url: str, tmp_path: Path
) -> None:
    server = make_url(redis_url)
    with proxy.to(server, port=6379) as network:
        url = server.set(host="127.0.0.1", port=network.port)
        through = settings.model_copy(
            update={
                "broker_url": url.render_as_string(hide_password=False),
                "broker_timeout_seconds": 0.5,
            }
        )
        network.refuse()
        with _worker(through, tmp_path / "worker.log") as log:
            _ingest(postgres_database, "away")
            network.forward()
            _until(lambda: " ready." in log(), "the broker's welcome")
            network.swallow()
            _ingest(postgres_database, "silent")


def test_a_worker_that_ends_in_order_takes_its_heartbeat_away(
    settings: Settings, postgres_database: Engine, tmp_path: Path
) -> None:
    def beating() -> list[Worker]:
        with Session(postgres_database) as session:
            return list(session.scalars(select(Worker)))

    with _worker(settings, tmp_path / "worker.log"):
        _until(lambda: len(beating()) == 1, "a heartbeat")
        assert set(beating()[0].busy_since) == set(broker.QUEUES)
    assert beating() == []


def _ingest(database: Engine, name: str) -> None:
    """Have the worker ingest the digits under that name."""
    with Session(database) as session:
        source = {"path": demo_digits.FILE}
        datasets.create(session, name, source=source, actor="key:test", now=db.now())
        session.commit()

    def ready() -> bool:
        with Session(database) as session:
            status = session.scalar(select(Dataset.status).where(Dataset.name == name))
            return status == "ready"

    _until(ready, f"the ingest of {name}")


@contextmanager
def _worker(settings: Settings, log: Path) -> Iterator[Callable[[], str]]:
    program = serve.programs(settings, host="127.0.0.1", port=1, processes=1)[0]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *program.command[1:]],
            env={**os.environ, **serve.environment(settings)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield log.read_text
        assert process.poll() is None, log.read_text()
    finally:
        process.terminate()
        process.wait(DEADLINE_SECONDS)


def _until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < end, f"{what} did not come"
        time.sleep(0.05)
