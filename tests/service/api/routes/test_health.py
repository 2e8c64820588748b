"""What is up and what is ready, each part on its own, whatever is silent."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import Engine, make_url, select

from service.ledger.database.tables import Worker
from service.ledger.registry import heartbeats
from service.settings import Settings
from tests import proxy
from tests.service.api import callers
from tests.service.api.callers import assert_problem


def test_ready_is_a_database_and_a_worker_that_lives(app: FastAPI) -> None:
    client = TestClient(app)
    callers.beat(app)
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ready",
        "database": "reachable",
        "broker": "reachable",
        "worker": "alive",
        "store": "usable",
    }


def test_without_a_worker_it_says_what_still_works(app: FastAPI) -> None:
    answer = TestClient(app).get("/readyz")
    assert_problem(answer, 503, "no worker lives", "are accepted, recorded")
    seen = {part: answer.json()[part] for part in ("database", "broker", "worker")}
    assert seen == {"database": "reachable", "broker": "reachable", "worker": "absent"}
    assert TestClient(app).get("/healthz").status_code == 200


def test_a_worker_that_missed_its_beats_does_not_live(app: FastAPI) -> None:
    callers.beat(app)
    late = heartbeats.MISSED_BEATS * app.state.settings.heartbeat_seconds + 1
    with app.state.sessions.begin() as session:
        worker = session.scalars(select(Worker)).one()
        worker.seen_at -= timedelta(seconds=late)
    assert_problem(TestClient(app).get("/readyz"), 503, "no worker lives")
    callers.beat(app)
    assert TestClient(app).get("/readyz").status_code == 200


def test_a_broker_that_is_away_is_shown_and_does_no_harm(settings: Settings) -> None:
    alone = settings.model_copy(update={"broker_url": "redis://127.0.0.1:1/0"})
    with callers.application(alone) as app:
        callers.beat(app)
        answer = TestClient(app).get("/readyz")
        assert (answer.status_code, answer.json()["broker"]) == (200, "unreachable")


def test_a_silent_broker_is_shown_too(settings: Settings, redis_url: str) -> None:
    with proxy.to(make_url(redis_url), port=6379) as network:
        through = make_url(redis_url).set(host="127.0.0.1", port=network.port)
        alone = settings.model_copy(
            update={
                "broker_url": through.render_as_string(hide_password=False),
                "broker_timeout_seconds": 0.5,
            }
        )
        with callers.application(alone) as app:
            callers.beat(app)
            assert TestClient(app).get("/readyz").json()["broker"] == "reachable"
            network.swallow()
            answer = TestClient(app).get("/readyz")
            assert (answer.status_code, answer.json()["broker"]) == (200, "unreachable")


def test_a_folder_of_messages_that_cannot_be_made_is_a_broker_that_is_away(
    sqlite_database: Engine, tmp_path: Path
) -> None:
    settings = callers.settings_on(sqlite_database, tmp_path / "state")
    with callers.application(settings) as app:
        folder = tmp_path / "state" / "broker" / "messages"
        # In one step: the application may write a message while files are being removed.
        folder.rename(tmp_path / "moved")
        folder.touch()
        callers.beat(app)
        assert TestClient(app).get("/readyz").json()["broker"] == "unreachable"
