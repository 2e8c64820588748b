"""One request from the POST to the signed report, through the real door and a real worker.

Nothing here is played: the HTTP application, the recipes of a worker's lanes, the compute process
and the store are those of the deployment; only Celery's messages are left out, since they carry
nothing (``tests/workers/schedule/test_lanes.py`` sends them).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from models_store import open_store
from service import audit_file, broker
from service.ledger.database import db, schema
from service.ledger.database.tables import Dataset
from service.ledger.registry import keys
from service.main import create_app
from service.settings import Settings
from tests.workers.place import LENIENT
from workers.demo import digits as demo_digits
from workers.demo.digits import Digits
from workers.runtime import Runtime
from workers.schedule import catalogue
from workers.schedule.lanes import Lane, make


@dataclass
class Town:
    """A running service on the digits, with a client that may do everything."""

    client: TestClient
    settings: Settings
    engine: Engine
    digits: Digits
    lanes: list[Lane]

    def work(self) -> None:
        """Let the workers do all that is due."""
        for lane in self.lanes:
            lane.run()

    def get(self, path: str) -> dict:
        response = self.client.get(path)
        assert response.status_code == 200, response.text
        return response.json()

    def post(self, path: str, body: dict, status: int, **headers: str) -> dict:
        response = self.client.post(path, json=body, headers=headers)
        assert response.status_code == status, response.text
        return response.json()


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    home = tmp_path_factory.mktemp("town")
    settings = Settings(_env_file=None, state_dir=home, threads=1)
    settings.sources.mkdir()
    digits = demo_digits.load()
    digits.write(settings.sources / demo_digits.FILE)
    engine = db.engine(settings.database)
    schema.upgrade(engine)
    with db.session_factory(engine)() as session:
        _, secret = keys.create(
            session, "tests", scopes=["admin"], expires_at=None, actor="tests", now=db.now()
        )
        session.commit()
    lanes = [make(name, Runtime.make(settings)) for name in broker.QUEUES]
    catalogue.announce(lanes[0].runtime)
    with TestClient(create_app(settings)) as client:
        client.headers["Authorization"] = f"Bearer {secret}"
        yield Town(client, settings, engine, digits, lanes)
    for lane in lanes:
        lane.close()
    engine.dispose()


@pytest.fixture(scope="module")
def published(town: Town) -> Town:
    """The town with a dataset and a model whose version 1 is live."""
    town.post("/v1/datasets", {"name": "digits", "source": {"path": demo_digits.FILE}}, 202)
    town.work()
    assert town.get("/v1/datasets/digits")["status"] == "ready"
    town.post(
        "/v1/models",
        {
            "name": "reader",
            "dataset": "digits",
            "architecture": {"name": "mlp", "parameters": {"hidden": [16]}},
            "transform": {"scale": 1 / 16},
            "recipe": {"epochs": 12, "learning_rate": 0.01, "alpha": 0},
            "policy": {
                "max_wait_seconds": 0,
                "purge_after_seconds": 0,
                "margins": {"splits": 0},
                # By chance a gate fails one honest step in a hundred, which is not to decide here.
                "gates": LENIENT,
            },
        },
        201,
    )
    town.work()
    town.post("/v1/models/reader/training-runs", {"seed": 3}, 202)
    town.work()
    town.work()  # once more: the anchor is prepared after it was published
    assert town.get("/v1/models/reader")["production"] == 1
    return town


@pytest.fixture(scope="module")
def forgotten(published: Town) -> tuple[Town, dict, np.ndarray]:
    """The same after one subject with 40 records was forgotten."""
    body = {"dataset": "digits", "subject_id": "writer-3"}
    accepted = published.post("/v1/deletion-requests", body, 202, **{"Idempotency-Key": "once"})
    published.work()
    rows = np.flatnonzero(np.array(published.digits.subject_ids) == "writer-3")
    return published, accepted, rows


def test_request_is_completed(forgotten: tuple[Town, dict, np.ndarray]) -> None:
    town, accepted, rows = forgotten
    request = town.get(f"/v1/deletion-requests/{accepted['id']}")
    assert request["status"] == "completed"
    assert request["matched"] == len(rows) == 40


def test_production_moved_to_a_version_without_the_records(
    forgotten: tuple[Town, dict, np.ndarray],
) -> None:
    town, _, _ = forgotten
    assert town.get("/v1/models/reader")["production"] == 2
    version = town.get("/v1/models/reader/versions/2")
    assert version["origin"] == "unlearned"
    assert version["digest"] != town.get("/v1/models/reader/versions/1")["digest"]


def test_raw_rows_are_overwritten_in_the_file(forgotten: tuple[Town, dict, np.ndarray]) -> None:
    town, _, rows = forgotten
    with db.session_factory(town.engine)() as session:
        key = session.query(Dataset.array_key).scalar()
    array = open_store(town.settings.store).rows.open(key)
    assert not array.rows[rows].any()
    others = np.setdiff1d(np.arange(len(array)), rows)
    assert np.array_equal(array.rows[others], town.digits.x[others])


def test_same_key_and_body_give_the_original_answer(
    forgotten: tuple[Town, dict, np.ndarray],
) -> None:
    town, accepted, _ = forgotten
    body = {"dataset": "digits", "subject_id": "writer-3"}
    again = town.post("/v1/deletion-requests", body, 202, **{"Idempotency-Key": "once"})
    assert again["id"] == accepted["id"]


def test_forgotten_records_are_counted_not_forgotten_twice(
    forgotten: tuple[Town, dict, np.ndarray],
) -> None:
    town, _, rows = forgotten
    body = {"dataset": "digits", "record_ids": [town.digits.record_ids[row] for row in rows]}
    again = town.post("/v1/deletion-requests", body, 202)
    assert (again["matched"], again["already_forgotten"]) == (0, 40)
    town.work()
    assert town.get("/v1/models/reader")["production"] == 2


def test_version_that_holds_the_records_is_not_served(
    forgotten: tuple[Town, dict, np.ndarray],
) -> None:
    town, accepted, _ = forgotten
    answer = town.client.get("/v1/models/reader/versions/1/checkpoint")
    assert answer.status_code in {409, 410}
    move = town.client.put("/v1/models/reader/aliases/production", json={"version": 1})
    assert move.status_code == 409
    assert move.headers["content-type"] == "application/problem+json"
    assert accepted["id"] in move.text


def test_report_is_signed_and_verifies_without_the_service(
    forgotten: tuple[Town, dict, np.ndarray], tmp_path: Path
) -> None:
    town, accepted, _ = forgotten
    answer = town.client.get("/v1/models/reader/versions/2/audit")
    assert answer.status_code == 200, answer.text
    saved, public_keys = tmp_path / "report.json", tmp_path / "keys.json"
    saved.write_bytes(answer.content)
    public_keys.write_bytes(town.client.get("/.well-known/unlearning-keys.json").content)
    assert audit_file.verify_file(saved, keys=public_keys).ok
    assert accepted["id"] in answer.text
    report = json.loads(answer.content)
    report["measured"]["verdict"] = "certainly"
    saved.write_text(json.dumps(report))
    assert not audit_file.verify_file(saved, keys=public_keys).ok


def test_no_plain_subject_is_stored_or_reported(
    forgotten: tuple[Town, dict, np.ndarray],
) -> None:
    town, accepted, _ = forgotten
    shown = town.client.get("/v1/models/reader/versions/2/audit").text
    shown += town.client.get("/v1/audit/events?limit=200").text
    shown += town.client.get(f"/v1/deletion-requests/{accepted['id']}").text
    assert "writer-3" not in shown
    with sqlite3.connect(town.settings.state_dir / "ledger.db") as database:
        assert not any("writer-3" in line for line in database.iterdump())


def test_audit_chain_is_whole(forgotten: tuple[Town, dict, np.ndarray]) -> None:
    town, accepted, _ = forgotten
    events = town.get(f"/v1/deletion-requests/{accepted['id']}/events")
    actions = [event["action"] for event in events["items"]]
    assert "deletion_request:accepted" in actions
    assert "deletion_request:completed" in actions
