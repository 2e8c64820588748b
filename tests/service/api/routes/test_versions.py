"""Versions over HTTP: lists, lineage, verification, approval and the alias production."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from fastapi import FastAPI

from service.ledger.database.states import VersionStatus
from service.ledger.database.tables import Dataset
from service.ledger.registry import models, versions
from service.settings import Settings
from tests import factories
from tests.service.api import callers, reader
from tests.service.api.callers import assert_problem
from tests.service.api.reader import ALIAS, PATH, chain, post, weights


@pytest.fixture
def app(settings: Settings) -> Iterator[FastAPI]:
    with reader.application(settings) as running:
        yield running


def test_versions_are_listed_by_page_and_status(app: FastAPI) -> None:
    chain(app)
    client = callers.client(app, "models:read")
    first = client.get(PATH, params={"limit": 2}).json()
    assert [one["number"] for one in first["items"]] == [3, 2]
    rest = client.get(PATH, params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [one["number"] for one in rest["items"]] == [1]
    assert rest["next_cursor"] is None
    assert client.get(PATH, params={"status": "retired"}).json()["items"] == []
    assert_problem(client.get(PATH, params={"status": "gone"}), 422)
    assert_problem(client.get(PATH, params={"cursor": "AAAA"}), 422)
    for number in ("0", "-1", "x", str(2**40)):
        assert_problem(client.get(f"{PATH}/{number}"), 422)
    assert_problem(client.get(f"{PATH}/9"), 404, "latest is 3")
    assert_problem(callers.client(app, "models:write").get(PATH), 403)


def test_a_lineage_goes_back_to_the_anchor_with_batches_and_verdicts(app: FastAPI) -> None:
    chain(app)
    client = callers.client(app, "models:read")
    items = client.get(f"{PATH}/3/lineage").json()["items"]
    assert [(one["number"], one["parent"], one["records"]) for one in items] == [
        (3, 2, 1),
        (2, 1, 2),
        (1, None, 0),
    ]
    assert [one["verdict"] for one in items] == ["passed", "passed", None]
    assert [one["method"] for one in items] == ["iau", "iau", None]
    assert items[0]["batch"].startswith("b_")
    first = client.get(f"{PATH}/3/lineage", params={"limit": 1}).json()
    rest = client.get(f"{PATH}/3/lineage", params={"cursor": first["next_cursor"]}).json()
    assert [one["number"] for one in rest["items"]] == [2, 1]


def test_scores_of_single_records_need_a_scope_of_their_own(app: FastAPI) -> None:
    chain(app)
    reader = callers.client(app, "models:read").get(f"{PATH}/3/verification").json()
    assert reader["verdict"] == "passed"
    assert reader["measured"]["metrics"] == {"rmia_auc": {"value": 0.5, "k": 1}}
    assert reader["measured"]["pooled"] == {"batches": 2, "rows": 20, "smallest_batch": 10}
    # Nobody knows who may read it.
    assert "of_a_later_release" not in reader["measured"]
    auditor = callers.client(app, "models:read", "audit:read").get(f"{PATH}/3/verification")
    everything = auditor.json()["measured"]
    assert everything["metrics"]["rmia_auc"]["worst_records"] == [{"row": 3}]
    assert everything["of_a_later_release"] == {"3": 0.9}
    assert_problem(callers.client(app).get(f"{PATH}/1/verification"), 404, "no verification")


def test_the_alias_moves_back_and_forth_with_its_history(app: FastAPI) -> None:
    client = callers.client(app, "models:read", "models:write", "models:promote")
    assert client.get(ALIAS).json()["version"] is None
    for seed in range(2):
        post(client, weights(seed), promote="true")
        callers.measured(app, seed + 1)
    moved = client.put(ALIAS, json={"version": 1, "reason": "rollback", "expected": 2})
    assert moved.status_code == 200
    assert moved.json()["version"] == 1
    history = client.get(ALIAS).json()["history"]["items"]
    assert [(one["version"], one["previous"], one["reason"]) for one in history] == [
        (1, 2, "rollback"),
        (2, 1, "imported"),
        (1, None, "imported"),
    ]
    assert history[0]["moved_by"].startswith("key:key_")
    assert {one["moved_by"] for one in history[1:]} == {"worker:w"}
    page = client.get(ALIAS, params={"limit": 2}).json()["history"]
    rest = client.get(ALIAS, params={"cursor": page["next_cursor"]}).json()["history"]
    assert [one["version"] for one in rest["items"]] == [1]
    # The second is the first call again, as if its answer had been lost.
    for body in ({"version": 1}, {"version": 1, "expected": 2}, {"version": 1, "expected": 1}):
        again = client.put(ALIAS, json=body)
        assert again.status_code == 200
        assert len(again.json()["history"]["items"]) == 3
    assert_problem(client.put(ALIAS, json={"version": 1, "expected": 3}), 409, "production-moved")


def test_the_alias_is_moved_only_from_where_the_caller_saw_it(app: FastAPI) -> None:
    client = callers.client(app)
    for seed in range(2):
        post(client, weights(seed), promote="true")
        callers.measured(app, seed + 1)
    assert_problem(client.put(ALIAS, json={"version": 1, "expected": 1}), 409, "production-moved")
    assert client.get(ALIAS).json()["version"] == 2


def test_a_version_with_forgotten_records_cannot_go_live_again(app: FastAPI) -> None:
    chain(app)
    client = callers.client(app)
    refused = client.put(ALIAS, json={"version": 1})
    assert_problem(refused, 409, "would-resurrect")
    assert len(refused.json()["deletion_requests"]) == 2
    assert client.get(ALIAS).json()["version"] == 3
    with app.state.sessions() as session:
        model = models.get(session, "reader")
        versions.get(session, model, 3).status = VersionStatus.REJECTED
        model.production_id = versions.get(session, model, 2).id
        session.commit()
    assert_problem(client.put(ALIAS, json={"version": 3}), 409)


def test_moving_the_alias_needs_its_scope_and_a_version(app: FastAPI) -> None:
    chain(app)
    writer = callers.client(app, "models:write", "models:read")
    assert_problem(writer.put(ALIAS, json={"version": 3}), 403, "models:promote")
    client = callers.client(app)
    assert_problem(client.put(ALIAS, json={"version": 9}), 404)
    for body in ({}, {"version": 0}, {"version": "x"}, {"version": 2**31}, {"version": 1, "x": 1}):
        assert_problem(client.put(ALIAS, json=body), 422)
    assert_problem(client.put(ALIAS, json={"version": 1, "reason": "a\nb"}), 422)


def _held(app: FastAPI) -> None:
    """Version 1 is live; version 2, without row 0, is held until the request is nearly due."""
    with app.state.sessions() as session:
        model = models.get(session, "reader")
        data = session.get_one(Dataset, model.dataset_id)
        data.revision = 1
        session.get_one(factories.Record, (data.id, 0)).excluded_revision = 1
        base = factories.version(session, model)
        asked = factories.request(session, data, rows=[0], status="processing")
        batch = factories.batch(
            session, model, base, status="held", held_until=factories.NOW + timedelta(days=28)
        )
        factories.erasure(session, asked, model, status="claimed", batch_id=batch.id)
        version = factories.version(
            session,
            model,
            production=False,
            status=VersionStatus.CANDIDATE,
            data_revision=1,
            batch_id=batch.id,
        )
        batch.version_id = version.id
        session.commit()


def test_a_held_version_says_until_when_and_goes_live_when_approved(app: FastAPI) -> None:
    _held(app)
    client = callers.client(app)
    shown = client.get(f"{PATH}/2").json()
    assert shown["status"] == "candidate"
    assert "2026-03-29" in shown["status_reason"]
    [batch] = client.get("/v1/models/reader/batches").json()["items"]
    assert (batch["status"], batch["held_until"]) == ("held", "2026-03-29T12:00:00Z")
    refused = client.post("/v1/models/reader/batches:run-now", json={})
    assert_problem(refused, 409, f"{PATH}/2:approve")
    reader = callers.client(app, "models:read", "models:write")
    assert_problem(reader.post(f"{PATH}/2:approve"), 403, "models:promote")
    approved = client.post(f"{PATH}/2:approve")
    assert approved.status_code == 200, approved.text
    assert (approved.json()["is_production"], approved.json()["status"]) == (True, "published")
    assert client.post(f"{PATH}/2:approve").status_code == 200
    assert client.get("/v1/models/reader/batches").json()["items"][0]["status"] == "completed"


def test_only_a_held_version_is_approved(app: FastAPI) -> None:
    chain(app)
    client = callers.client(app)
    assert_problem(client.post(f"{PATH}/2:approve"), 409, "not-held")
    assert_problem(client.post(f"{PATH}/9:approve"), 404)
