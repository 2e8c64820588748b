"""Withdrawals over HTTP: what answers 410 then, what still answers, and whose key may do it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select

from service.ledger.database.states import VersionStatus
from service.ledger.database.tables import Model, Version
from service.ledger.destruction import purges
from service.settings import Settings
from tests import factories
from tests.service.api import callers
from tests.service.api.callers import assert_problem

MODEL = "/v1/models/reader"
VERSIONS = f"{MODEL}/versions"
BINARY = {"Content-Type": "application/octet-stream"}


@pytest.fixture
def app(settings: Settings) -> Iterator[FastAPI]:
    with callers.application(settings) as running:
        with running.state.sessions() as session:
            data = factories.dataset(session, name="digits", rows=10)
            factories.model(session, data, name="reader")
            session.commit()
        yield running


def weights(seed: int = 0) -> bytes:
    generator = np.random.default_rng(seed)
    return safetensors.numpy.save({"0.weight": generator.normal(size=(3, 64)).astype(np.float32)})


def upload(client: TestClient, content: bytes, **params: Any) -> Any:
    return client.post(VERSIONS, content=content, headers=BINARY, params=params)


def go_live(app: FastAPI, client: TestClient, content: bytes) -> None:
    """Import weights that are measured and go live."""
    number = upload(client, content, promote="true").json()["number"]
    callers.measured(app, number)


def withdraw(client: TestClient, path: str, **body: Any) -> Any:
    return client.post(f"{path}:withdraw", json=body)


def test_withdrawn_version_is_gone_for_everybody(client: TestClient) -> None:
    for seed in (0, 1):
        assert upload(client, weights(seed), promote="true").status_code == 201
    answer = withdraw(client, f"{VERSIONS}/1")
    assert answer.status_code == 202, answer.text
    shown = answer.json()
    assert (shown["status"], shown["is_production"]) == ("withdrawn", False)
    assert shown["withdrawn_at"] is not None
    assert shown["purge_at"] > shown["withdrawn_at"]
    assert_problem(client.get(f"{VERSIONS}/1/checkpoint"), 410, "withdrawn")
    moved = client.put(f"{MODEL}/aliases/production", json={"version": 1})
    assert_problem(moved, 410, "never goes live again")
    assert_problem(upload(client, weights(0)), 409, "is a version that was withdrawn")
    # Its history stays, and the live one goes on.
    assert client.get(f"{VERSIONS}/1").json() == shown
    assert client.get(f"{VERSIONS}/1/lineage").status_code == 200
    assert client.get(f"{VERSIONS}/2/checkpoint").status_code == 200
    again = withdraw(client, f"{VERSIONS}/1", purge="now").json()
    assert again["withdrawn_at"] == shown["withdrawn_at"]
    assert again["purge_at"] < shown["purge_at"]


def test_live_version_is_replaced_by_another_or_by_nothing(
    app: FastAPI, client: TestClient
) -> None:
    for seed in (0, 1, 2):
        go_live(app, client, weights(seed))
    assert withdraw(client, f"{VERSIONS}/3", promote=2).status_code == 202
    alias = client.get(f"{MODEL}/aliases/production").json()
    assert alias["version"] == 2
    assert alias["history"]["items"][0]["reason"] == "withdrawn"
    assert_problem(withdraw(client, f"{VERSIONS}/2", promote=3), 409, "cannot take the place")
    assert withdraw(client, f"{VERSIONS}/2").status_code == 202
    alias = client.get(f"{MODEL}/aliases/production").json()
    assert (alias["version"], alias["history"]["items"][0]["version"]) == (None, None)
    assert alias["history"]["items"][0]["previous"] == 2
    # Another one can be made live after all.
    assert client.put(f"{MODEL}/aliases/production", json={"version": 1}).status_code == 200
    assert_problem(withdraw(client, f"{VERSIONS}/9"), 404)


def test_withdrawn_model_is_history_only(client: TestClient) -> None:
    upload(client, weights())
    answer = withdraw(client, MODEL)
    assert answer.status_code == 202
    shown = answer.json()
    assert (shown["status"], shown["production"]) == ("withdrawn", None)
    assert shown["withdrawn_at"] is not None
    for refused in (
        client.get(f"{VERSIONS}/1/checkpoint"),
        client.put(f"{MODEL}/aliases/production", json={"version": 1}),
        upload(client, weights(1)),
        client.post(f"{MODEL}/training-runs", json={}),
        client.patch(MODEL, json={"policy": {"max_records": 3}}),
        client.post(f"{MODEL}/batches:run-now", json={}),
    ):
        assert_problem(refused, 410, "withdrawn")
    for read in (MODEL, VERSIONS, f"{VERSIONS}/1", f"{MODEL}/aliases/production"):
        assert client.get(read).status_code == 200
    assert client.get(f"{VERSIONS}/1/audit").status_code == 200
    assert client.get(VERSIONS, params={"status": "withdrawn"}).json()["items"] != []
    assert withdraw(client, MODEL).json() == shown
    assert client.delete(MODEL).json() == shown


def test_deleting_a_purged_model_says_that_it_is_purged(app: FastAPI, client: TestClient) -> None:
    upload(client, weights())
    client.delete(MODEL, params={"purge": "now"})
    with app.state.sessions() as session:
        model = session.scalars(select(Model)).one()
        version = session.scalars(select(Version)).one()
        assert version.status == VersionStatus.WITHDRAWN
        now = version.purge_at
        assert purges.due(session, now=now) == [version.id]
        purges.record(session, model, version, receipt={}, actor="worker:w", now=now)
        purges.record_model(session, model, receipt={}, actor="worker:w", now=now)
        session.commit()
    answer = client.delete(MODEL)
    assert (answer.status_code, answer.json()["status"]) == (202, "purged")
    assert answer.json()["purged_at"] is not None
    assert_problem(client.get(f"{VERSIONS}/1/checkpoint"), 410)


def test_dataset_with_models_is_deleted_only_with_them(client: TestClient) -> None:
    refused = client.delete("/v1/datasets/digits")
    assert_problem(refused, 409, "reader", "models=withdraw")
    assert refused.json()["models"] == ["reader"]
    answer = client.delete("/v1/datasets/digits", params={"models": "withdraw"})
    assert (answer.status_code, answer.json()["status"]) == (202, "withdrawn")
    assert client.get(MODEL).json()["status"] == "withdrawn"
    assert client.delete("/v1/datasets/digits").json() == answer.json()
    assert client.get("/v1/datasets/digits").json() == answer.json()
    ask = {"dataset": "digits", "record_ids": ["r1"]}
    assert_problem(client.post("/v1/deletion-requests", json=ask), 410, "withdrawn")
    again = {"name": "digits", "source": {"path": "x.csv"}}
    created = client.post("/v1/datasets", json=again)
    assert_problem(created, 409, "name is not used twice")
    assert_problem(client.delete("/v1/datasets/none"), 404)


def test_taking_away_what_is_live_needs_the_scope_that_says_what_is_live(app: FastAPI) -> None:
    admin = callers.client(app)
    writer = callers.client(app, "models:write")
    promoter = callers.client(app, "models:promote")
    go_live(app, admin, weights())
    with_models = {"models": "withdraw"}
    for refused in (
        withdraw(writer, MODEL),
        withdraw(writer, f"{VERSIONS}/1"),
        writer.delete(MODEL),
        writer.delete("/v1/datasets/digits", params=with_models),
    ):
        assert_problem(refused, 403, "models:promote")
    for refused in (promoter.delete(MODEL), promoter.delete("/v1/datasets/digits")):
        assert_problem(refused, 403, "models:write")
    assert admin.get(MODEL).json()["production"] == 1
    assert withdraw(promoter, f"{VERSIONS}/1").status_code == 202
    # Nothing is live any more.
    assert writer.delete(MODEL).status_code == 202
    assert writer.delete("/v1/datasets/digits", params=with_models).status_code == 202
