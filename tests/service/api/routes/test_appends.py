"""Rows are added to a dataset over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import Engine

from service.ledger.database.identifiers import Origin
from service.ledger.database.states import DatasetStatus
from service.ledger.registry import appends, inspections
from tests import factories
from tests.service.api import callers
from tests.service.api.callers import assert_problem

ROWS = "/v1/datasets/visits/rows"
BODY = {"source": {"path": "more.csv"}}


@pytest.fixture
def app(sqlite_database: Engine, tmp_path: Path) -> Iterator[FastAPI]:
    settings = callers.settings_on(sqlite_database, tmp_path)
    settings.sources.mkdir(parents=True)
    with callers.application(settings) as running:
        with running.state.sessions() as session:
            factories.dataset(session, name="visits", rows=6)
            factories.dataset(session, name="reading", status=DatasetStatus.INGESTING)
            factories.dataset(session, name="numbered", record_id_origin=Origin.GENERATED)
            session.commit()
        yield running


def waiting(app: FastAPI) -> list[dict[str, Any]]:
    with app.state.sessions() as session:
        return [one.source for one in appends.waiting(session)]


def test_append_is_accepted_for_a_worker_and_shown(app: FastAPI) -> None:
    client = callers.client(app, "models:write", "models:read")
    answer = client.post(ROWS, json={**BODY, "existing": "skip", "seed": 3})
    assert answer.status_code == 202
    made = answer.json()
    assert answer.headers["Location"] == f"/v1/datasets/visits/appends/{made['id']}"
    assert (made["dataset"], made["status"], made["rows"]) == ("visits", "waiting", None)
    assert waiting(app) == [{"path": "more.csv", "seed": 3}]
    assert client.get(answer.headers["Location"]).json() == made
    listed = client.get("/v1/datasets/visits/appends").json()
    assert listed == {"items": [made], "next_cursor": None}


def test_appends_are_listed_in_pages_newest_first(app: FastAPI) -> None:
    client = callers.client(app, "models:write", "models:read")
    made = [client.post(ROWS, json=BODY).json()["id"] for _ in range(3)]
    first = client.get("/v1/datasets/visits/appends?limit=2").json()
    rest = client.get(f"/v1/datasets/visits/appends?limit=2&cursor={first['next_cursor']}").json()
    assert [one["id"] for one in (*first["items"], *rest["items"])] == made[::-1]


def test_repeated_call_with_a_key_makes_one_append(app: FastAPI) -> None:
    client = callers.client(app, "models:write")
    key = {"Idempotency-Key": "week-22"}
    first, again = (client.post(ROWS, json=BODY, headers=key) for _ in range(2))
    assert again.json() == first.json()
    assert again.status_code == 202
    assert again.headers["Idempotency-Replayed"] == "true"
    assert len(waiting(app)) == 1
    other = client.post(ROWS, json={"source": {"path": "other.csv"}}, headers=key)
    assert_problem(other, 422, "idempotency-key-reused")


def test_dry_run_queues_an_inspection_and_no_append(app: FastAPI) -> None:
    client = callers.client(app, "models:write", "models:read")
    answer = client.post(ROWS, json={**BODY, "dry_run": True})
    assert answer.status_code == 202
    assert answer.headers["Location"].startswith("/v1/dataset-inspections/insp_")
    assert client.get(answer.headers["Location"]).json()["status"] == "waiting"
    assert waiting(app) == []
    with app.state.sessions() as session:
        (asked,) = inspections.waiting(session)
    assert asked.source["append_to"] == "visits"


@pytest.mark.parametrize(
    ("dataset", "body", "status", "code"),
    [
        ("nothing", BODY, 404, "not-found"),
        ("reading", BODY, 409, "conflict"),
        ("numbered", BODY, 409, "no-record-ids"),
        ("visits", {"source": {"path": "../more.csv"}}, 422, "outside-data-root"),
        ("visits", {"source": {"path": "s3://bucket/more.csv"}}, 422, "outside-data-root"),
        ("visits", {**BODY, "existing": "replace"}, 422, "body.existing"),
        ("visits", {**BODY, "columns": {"label": "y"}}, 422, "body.columns"),
    ],
)
def test_append_that_cannot_be_made_is_refused_at_once(
    app: FastAPI, dataset: str, body: dict[str, Any], status: int, code: str
) -> None:
    answer = callers.client(app, "models:write").post(f"/v1/datasets/{dataset}/rows", json=body)
    assert_problem(answer, status, code)
    assert waiting(app) == []


def test_append_of_another_dataset_is_not_shown(app: FastAPI) -> None:
    client = callers.client(app, "models:write", "models:read")
    made = client.post(ROWS, json=BODY).json()
    answer = client.get(f"/v1/datasets/reading/appends/{made['id']}")
    assert_problem(answer, 404, "not-found")
