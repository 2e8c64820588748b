"""Endpoints of which every field may be left out need no body."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from service.settings import Settings
from tests import factories
from tests.service.api import callers
from tests.service.api.callers import assert_problem

URL = "/v1/models/who/batches:run-now"


@pytest.fixture
def database(sqlite_database: Engine) -> Engine:
    return sqlite_database


@pytest.fixture
def app(settings: Settings) -> Iterator[FastAPI]:
    with callers.application(settings) as running:
        with running.state.sessions() as session:
            data = factories.dataset(session, name="faces", rows=4)
            factories.version(session, factories.model(session, data, name="who"))
            session.commit()
        yield running


def _bodies() -> dict[str, dict[str, Any]]:
    """The body of each operation that takes JSON, by its method and path."""
    return {
        f"{method} {path}": operation["requestBody"]
        for path, item in callers.document()["paths"].items()
        for method, operation in item.items()
        if "application/json" in operation.get("requestBody", {}).get("content", {})
    }


def _may_be_empty(body: dict[str, Any]) -> bool:
    schema = body["content"]["application/json"]["schema"]
    name = schema.get("$ref", "").rpartition("/")[2]
    found = callers.document()["components"]["schemas"].get(name, schema)
    return not {"required", "oneOf", "minProperties"} & found.keys()


def test_a_body_is_required_where_a_field_of_it_is() -> None:
    bodies = _bodies()
    optional = {name for name, body in bodies.items() if _may_be_empty(body)}
    # A tokenizer is a file of JSON, whose fields nobody here decides.
    optional -= {"post /v1/tokenizers"}
    assert optional == {name for name, body in bodies.items() if not body.get("required", False)}
    assert "post /v1/models/{model}/batches:run-now" in optional
    assert "post /v1/deletion-requests" in bodies.keys() - optional


def test_no_body_is_an_empty_object(client: TestClient) -> None:
    names = {"model": "nobody", "number": "1", "request_id": "dr_" + "0" * 26}
    names |= {"webhook_id": "wh_" + "0" * 26}
    for name, body in _bodies().items():
        method, path = name.split()
        url = path
        for part, value in names.items():
            url = url.replace("{" + part + "}", value)
        given = client.request(method, url, json={})
        absent = client.request(method, url)
        if body.get("required", False):
            assert_problem(absent, 415)
        else:
            # Each answer names the request that it is of.
            told = [one.json() | {"request_id": None} for one in (absent, given)]
            assert (absent.status_code, told[0]) == (given.status_code, told[1])
            assert absent.status_code == 404


@pytest.mark.parametrize("headers", [{}, {"content-type": "application/x-www-form-urlencoded"}])
def test_a_batch_is_closed_without_a_body(client: TestClient, headers: dict[str, str]) -> None:
    answer = client.post(URL, headers=headers)
    assert answer.status_code == 202, answer.text
    assert answer.json()["method"] is None


def test_a_body_that_is_sent_is_read_as_strictly_as_any(client: TestClient) -> None:
    text = {"content-type": "text/plain"}
    assert_problem(client.post(URL, content=b"{}", headers=text), 415)
    assert_problem(client.post(URL, content=iter([b"{}"]), headers=text), 415)
    assert_problem(
        client.post(URL, content=b"null", headers={"content-type": "application/json"}), 422
    )
    assert_problem(client.post(URL, json={"options": {"epochs": 1}}), 422)
    assert_problem(client.post(URL, json={"methods": "retrain"}), 422)
