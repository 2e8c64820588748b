"""Every error is a problem that says what to do and repeats nothing of what was sent."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import Engine, text

from service.errors import Conflict, ServiceError
from service.settings import Settings
from tests.service.api import callers
from tests.service.api.callers import assert_problem

URL = "/v1/deletion-requests"
JSON = {"content-type": "application/json"}


@pytest.fixture
def database(sqlite_database: Engine) -> Engine:
    return sqlite_database


def test_an_unknown_path_is_a_problem(client: TestClient) -> None:
    assert_problem(client.get("/v1/nothing"), 404, "/openapi.json")
    assert_problem(client.get(f"{URL}/"), 404)


def test_a_wrong_method_is_a_problem_that_names_the_right_ones(client: TestClient) -> None:
    answer = client.put(URL)
    assert_problem(answer, 405, "Allow")
    assert {"GET", "POST"} >= set(answer.headers["Allow"].split(", "))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{'a': 1}",
        b"\xff\xfe",
        b'{"dataset": NaN}',
        b'{"label": Infinity}',
        b"[" * 100_000,
        b'{"label": ' + b"9" * 5_000 + b"}",
        b'{"dataset": "planted"} planted',
    ],
)
def test_unreadable_json_is_a_400(client: TestClient, body: bytes) -> None:
    answer = client.post(URL, content=body, headers=JSON)
    assert_problem(answer, 400, "unreadable-body")
    assert "planted" not in answer.text


@pytest.mark.parametrize(
    "body",
    [
        b'{"dataset": "faces", "record_ids": ["r0"], "record_ids": ["r1"]}',
        b'{"dataset": "faces", "dataset": "faces", "label": 1}',
        b'{"dataset": "faces", "label": 1, "lab\\u0065l": 2}',
        b'{"dataset": "faces", "label": 1, "reason": [{"a": {"planted": 1, "planted": 1}}]}',
    ],
)
def test_json_that_names_a_member_twice_is_a_400(client: TestClient, body: bytes) -> None:
    answer = client.post(URL, content=body, headers=JSON)
    assert_problem(answer, 400, "unreadable-body", "two members of one name")
    assert "planted" not in answer.text
    batch = client.post(f"{URL}:batch", content=b'{"items": [' + body + b"]}", headers=JSON)
    assert_problem(batch, 400, "unreadable-body")


def _operations() -> Iterator[tuple[str, str]]:
    """Method and URL of every operation; what is named in the URL need not exist."""
    for template, item in callers.document()["paths"].items():
        path = re.sub(r"\{\w+\}", "1", template)
        yield from ((method.upper(), path) for method in item)


def test_no_endpoint_ignores_a_query_parameter(client: TestClient) -> None:
    for method, path in _operations():
        answer = client.request(method, path, params={"subject_id": "planted", "planted": "1"})
        # OpenDSR answers what it cannot read with 400.
        status = 400 if path.startswith("/opendsr/") else 422
        assert_problem(answer, status, "query.(", "/openapi.json")
        assert "planted" not in answer.text, path


def test_a_query_parameter_is_given_once(client: TestClient) -> None:
    answer = client.get(f"{URL}?status=completed&status=planted")
    assert_problem(answer, 422, "query.status", "once")
    assert "planted" not in answer.text
    assert client.get(f"{URL}?status=completed&limit=1").status_code == 200


@pytest.mark.parametrize(
    "name", ["Idempotency-Key", "Authorization", "Content-Type", "idempotency-KEY"]
)
def test_no_endpoint_takes_the_last_of_two_headers(
    app: FastAPI, client: TestClient, name: str
) -> None:
    headers = [("Authorization", client.headers["Authorization"]), (name, "a"), (name, "b")]
    stranger = TestClient(app)
    for method, path in _operations():
        answer = stranger.request(method, path, headers=headers)
        assert_problem(answer, 400, "repeated-header", name.lower())


def test_nothing_is_told_about_parameters_without_a_key(app: FastAPI) -> None:
    assert_problem(TestClient(app).get(URL, params={"subject_id": "planted"}), 401)


@pytest.mark.parametrize(
    "body",
    [
        b'{"dataset": "faces", "subject_id": "a\\u0000b"}',
        b'{"dataset": "faces", "subject_id": "\\ud800"}',
        b'{"dataset": "faces", "\\udfff": 1}',
        b'{"dataset": "faces", "subject_id": ' + b"[" * 60 + b"]" * 60 + b"}",
        b'{"dataset": "faces", "label": 99999999999999999999}',
        b'{"dataset": "faces", "label": 1e400}',
        b"null",
    ],
)
def test_json_that_cannot_be_stored_is_a_422(client: TestClient, body: bytes) -> None:
    assert_problem(client.post(URL, content=body, headers=JSON), 422)


def test_an_escaped_backslash_before_u0000_is_text(client: TestClient) -> None:
    body = b'{"dataset": "faces", "subject_id": "a\\\\u0000b"}'
    assert_problem(client.post(URL, content=body, headers=JSON), 404)


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "multipart/form-data", ""])
def test_another_content_type_is_a_415(client: TestClient, kind: str) -> None:
    headers = {"content-type": kind} if kind else {}
    answer = client.post(URL, content=b'{"dataset": "faces", "label": 1}', headers=headers)
    assert_problem(answer, 415, "application/json")


def test_validation_names_fields_and_no_values(client: TestClient) -> None:
    body = {"dataset": "PLANTED!", "record_ids": ["planted" * 99], "what ever@planted": "planted"}
    answer = client.post(URL, json=body)
    assert_problem(answer, 422)
    places = {entry["field"] for entry in answer.json()["fields"]}
    assert places == {"body.dataset", "body.record_ids.0", "body.(…)"}
    assert "planted" not in answer.text.lower()


def test_nul_in_a_path_or_query_never_reaches_the_database(client: TestClient) -> None:
    assert_problem(client.get("/v1/datasets/a%00b"), 404)
    assert_problem(client.get(f"{URL}?model=a%00b"), 422)


def test_an_unexpected_error_shows_a_reference_and_nothing_else(
    app: FastAPI, client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    def explode(said: str) -> None:
        raise RuntimeError(f"no idea what to do with {said}")

    app.add_api_route("/explode", explode)
    logging.getLogger("service").propagate = True
    with caplog.at_level(logging.INFO):
        answer = client.get("/explode", params={"said": "planted"})
    assert_problem(answer, 500, "reference")
    assert answer.json()["reference"] in caplog.text
    assert "explode" in caplog.text  # the place, from the traceback
    ours = [line.getMessage() for line in caplog.records if line.name.startswith("service")]
    assert "planted" not in answer.text + repr(ours)


def test_a_service_error_carries_its_extra_members_and_retry_after(app: FastAPI) -> None:
    def refuse() -> None:
        raise Conflict("wait a little", retry_after_seconds=7, state="busy")

    app.add_api_route("/refuse", refuse)
    answer = TestClient(app).get("/refuse")
    assert_problem(answer, 409, "wait a little")
    assert (answer.headers["Retry-After"], answer.json()["state"]) == ("7", "busy")


def test_a_database_without_tables_is_unavailable(app: FastAPI, client: TestClient) -> None:
    callers.beat(app)
    assert client.get("/readyz").json()["status"] == "ready"
    engine: Engine = app.state.engine
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'older'"))
    answer = client.get("/readyz")
    assert_problem(answer, 503, "unlearn migrate")
    assert int(answer.headers["Retry-After"]) > 0
    assert client.get("/healthz").json() == {"status": "up"}


def test_a_database_that_does_not_answer_is_unavailable(settings: Settings) -> None:
    nowhere = settings.model_copy(
        update={"database_url": "postgresql://nobody@127.0.0.1:1/nothing"}
    )
    with callers.application(nowhere) as app:
        client = TestClient(app, headers={"Authorization": "Bearer unl_abc_def"})
        for answer in (client.get("/readyz"), client.get(URL), client.post(URL, json={})):
            assert_problem(answer, 503, "try again")
            assert int(answer.headers["Retry-After"]) > 0
        assert client.get("/healthz").status_code == 200


def test_every_response_has_the_security_headers(client: TestClient) -> None:
    for path in ("/healthz", "/nothing", URL):
        headers = client.get(path, headers={"Origin": "https://elsewhere.example"}).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "access-control-allow-origin" not in headers


def test_every_error_class_says_what_it_is() -> None:
    def below(kind: type[ServiceError]) -> Iterator[type[ServiceError]]:
        for child in kind.__subclasses__():
            yield child
            yield from below(child)

    for kind in below(ServiceError):
        assert 400 <= kind.status <= 503
        assert kind.code == kind.code.lower()
        assert kind.title
