"""Datasets over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from sqlalchemy import Engine, select

from service.ledger.database.tables import AuditEvent
from service.ledger.registry import datasets
from tests import factories
from tests.service.api import callers
from tests.service.api.callers import assert_problem


@pytest.fixture
def app(sqlite_database: Engine, tmp_path: Path) -> Iterator[FastAPI]:
    settings = callers.settings_on(sqlite_database, tmp_path)
    settings.sources.mkdir(parents=True)
    with callers.application(settings) as running:
        yield running


def _body(**changes: object) -> dict[str, object]:
    return {"name": "faces", "source": {"path": "faces.parquet"}, **changes}


def test_a_dataset_is_accepted_for_a_worker_to_ingest(app: FastAPI) -> None:
    client = callers.client(app, "models:write", "models:read")
    answer = client.post("/v1/datasets", json=_body(columns={"label": "y"}, classes=7, seed=3))
    assert answer.status_code == 202
    assert answer.headers["Location"] == "/v1/datasets/faces"
    assert int(answer.headers["Retry-After"]) > 0
    shown = client.get(answer.headers["Location"]).json()
    assert shown == answer.json()
    assert (shown["status"], shown["progress"], shown["rows"]) == ("ingesting", 0.0, None)
    assert shown["source"]["columns"]["label"] == "y"
    assert shown["source"]["seed"] == 3
    with app.state.sessions() as session:
        assert [row.name for row in datasets.waiting(session)] == ["faces"]
        event = session.scalars(select(AuditEvent).where(AuditEvent.subject == "dataset:faces"))
        assert [line.action for line in event] == ["dataset:created"]


def test_a_ready_dataset_shows_its_counts(app: FastAPI) -> None:
    with app.state.sessions() as session:
        made = factories.dataset(session, rows=10, name="digits", splits=[0] * 7 + [1, 2, 2])
        asked = factories.request(session, made, rows=[0])
        for row in (0, 1):
            record = session.get(factories.Record, (made.id, row))
            record.excluded_revision = 1
            record.erased_at = factories.NOW if row == 0 else None
        assert asked.id
        session.commit()
    shown = callers.client(app, "models:read").get("/v1/datasets/digits").json()
    assert shown["splits"] == {"train": 7, "validation": 1, "audit": 2}
    assert (shown["forgotten"], shown["erased"], shown["rows"]) == (2, 1, 10)


def test_datasets_are_listed_in_pages(app: FastAPI) -> None:
    with app.state.sessions() as session:
        for name in ("c", "a", "b"):
            factories.dataset(session, rows=1, name=name)
        session.commit()
    client = callers.client(app, "models:read")
    first = client.get("/v1/datasets", params={"limit": 2}).json()
    assert [one["name"] for one in first["items"]] == ["a", "b"]
    rest = client.get("/v1/datasets", params={"cursor": first["next_cursor"]}).json()
    assert [one["name"] for one in rest["items"]] == ["c"]
    assert rest["next_cursor"] is None
    assert_problem(client.get("/v1/datasets", params={"cursor": "x"}), 422, "bad-cursor")


OUTSIDE = ["/etc/passwd", "../secret", "a/../../b", "..", ".", "a\\b", "link/file", "x" * 2000]


def test_a_source_outside_the_data_root_is_refused(app: FastAPI) -> None:
    (app.state.settings.sources / "link").symlink_to("/usr")
    client = callers.client(app)
    for path in OUTSIDE:
        assert_problem(client.post("/v1/datasets", json=_body(source={"path": path})), 422)
    assert client.get("/v1/datasets").json()["items"] == []


SENSELESS: list[dict[str, object]] = [
    {"name": "Faces"},
    {"name": ""},
    {"name": "a" * 70},
    {"source": {}},
    {"source": {"path": "a", "url": "b"}},
    {"columns": {"nobody": "x"}},
    {"columns": {"features": []}},
    {"classes": 1},
    {"seed": -1},
    {"seed": 2**64},
    {"fractions": {"train": 0.5, "validation": 0.1, "audit": 0.1}},
    {"fractions": {"train": 0.0, "validation": 0.5, "audit": 0.5}},
    {"extra": 1},
]


def test_a_body_that_makes_no_sense_is_refused(app: FastAPI) -> None:
    client = callers.client(app)
    for changes in SENSELESS:
        assert_problem(client.post("/v1/datasets", json=_body(**changes)), 422, "fields")


def test_a_name_is_taken_once_but_a_failed_dataset_can_be_tried_again(app: FastAPI) -> None:
    client = callers.client(app)
    client.post("/v1/datasets", json=_body())
    assert_problem(client.post("/v1/datasets", json=_body()), 409, "already")
    with app.state.sessions() as session:
        made = datasets.get(session, "faces")
        datasets.fail(session, made, error="row 3: no label", actor="worker:w", now=factories.NOW)
        session.commit()
    shown = client.get("/v1/datasets/faces").json()
    assert (shown["status"], shown["error"]) == ("failed", "row 3: no label")
    again = client.post("/v1/datasets", json=_body(seed=9))
    assert again.status_code == 202
    assert (again.json()["status"], again.json()["error"]) == ("ingesting", None)
    assert again.json()["source"]["seed"] == 9


def test_an_unknown_or_malformed_name_is_no_server_error(app: FastAPI) -> None:
    client = callers.client(app)
    for name in ("nobody", "UPPER", "%00", "a%2Fb", "..%2f", "x" * 300):
        answer = client.get(f"/v1/datasets/{name}")
        assert answer.status_code in (404, 422)
        assert answer.headers["content-type"] == "application/problem+json"


def test_only_the_right_keys_may(app: FastAPI) -> None:
    reader = callers.client(app, "models:read")
    assert_problem(reader.post("/v1/datasets", json=_body()), 403, "models:write")
    assert_problem(callers.client(app, "requests:read").get("/v1/datasets"), 403, "models:read")
    reader.headers.pop("Authorization")
    assert_problem(reader.get("/v1/datasets"), 401)


def test_a_body_of_another_type_is_refused(app: FastAPI) -> None:
    client = callers.client(app)
    answer = client.post(
        "/v1/datasets", content="name=faces", headers={"Content-Type": "text/plain"}
    )
    assert_problem(answer, 415)
