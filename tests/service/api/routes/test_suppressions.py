"""Readmission over HTTP: who may, what is said, and nothing of whom it is about."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import SecretStr

from service.settings import Settings
from tests import factories
from tests.service.api import callers
from tests.service.api.callers import assert_problem

URL = "/v1/suppressions:readmit"
SCOPES = ("requests:approve",)


@pytest.fixture
def app(settings: Settings) -> Iterator[FastAPI]:
    subject_key = SecretStr(factories.DIGESTER.keys[0].decode())
    limits = {"max_records_per_request": 3, "subject_key": subject_key}
    with callers.application(settings.model_copy(update=limits)) as running:
        with running.state.sessions() as session:
            factories.dataset(session, name="faces", rows=2, subjects=["planted-person", "ben"])
            session.commit()
        yield running


def test_a_person_who_was_forgotten_is_readmitted_once(client: TestClient, app: FastAPI) -> None:
    body = {"subject_id": "planted-person"}
    assert callers.client(app).post("/v1/deletion-requests", json=body).status_code == 202
    first, again = (client.post(URL, json=body) for _ in range(2))
    assert (first.status_code, first.json()) == (200, {"lifted": 2})
    assert (again.status_code, again.json()) == (200, {"lifted": 0})
    lines = callers.client(app).get("/v1/audit/events", params={"action": "suppression:lifted"})
    assert [line["data"]["lifted"] for line in lines.json()["items"]] == [0, 2]
    assert "planted" not in first.text + lines.text


@pytest.mark.parametrize("scope", ["requests:write", "requests:read", "models:write"])
def test_only_whoever_may_approve_may_readmit(app: FastAPI, scope: str) -> None:
    answer = callers.client(app, scope).post(URL, json={"subject_id": "planted-person"})
    assert_problem(answer, 403, "requests:approve")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"dataset": "faces"},
        {"record_ids": ["planted"]},
        {"subject_id": "planted", "dataset": "faces", "record_ids": ["r0"]},
        {"subject_id": "planted", "dataset": "faces"},
        {"subject_id": ""},
        {"dataset": "faces", "record_ids": []},
        {"dataset": "faces", "record_ids": ["r0"], "planted": 1},
    ],
)
def test_a_body_that_makes_no_sense_is_refused(client: TestClient, body: dict[str, Any]) -> None:
    answer = client.post(URL, json=body)
    assert_problem(answer, 422)
    assert "planted" not in answer.text.replace("body.planted", "")


def test_an_unknown_dataset_and_too_many_records_are_refused(client: TestClient) -> None:
    ids = [f"r{row}" for row in range(4)]
    assert_problem(client.post(URL, json={"dataset": "faces", "record_ids": ids}), 413)
    assert_problem(client.post(URL, json={"dataset": "other", "record_ids": ["r0"]}), 404)
    assert client.post(URL, json={"dataset": "faces", "record_ids": ids[:3]}).json() == {
        "lifted": 0
    }
