"""OpenDSR requests that are refused: wrong, unmatched, too many, without a scope or certificate."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from service.api.routes import opendsr_schemas as schemas
from service.ledger.database.states import DatasetStatus
from service.settings import Settings
from tests import certificates, factories
from tests.service.api import callers, controller
from tests.service.api.callers import assert_problem
from tests.service.api.controller import (
    CALLBACK,
    PERSON,
    URL,
    body,
    rows,
    sent,
    state,
)

APPLICATION = controller.faces
SCOPES = ("opendsr:write",)


REFUSED: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"subject_request_type": "access"}, ("unsupported-request-type",)),
    ({"subject_request_type": "portability"}, ("unsupported-request-type",)),
    ({"subject_request_type": "rectification"}, ("subject_request_type",)),
    ({"regulation": "lgpd"}, ("regulation",)),
    ({"subject_request_id": str(uuid.uuid1())}, ("subject_request_id",)),
    ({"subject_request_id": str(uuid.uuid4()).upper()}, ("subject_request_id",)),
    ({"api_version": "1.0"}, ("api_version",)),
    ({"submitted_time": "2019-01-01T00:00:00Z"}, ("bad-submitted-time", "has passed")),
    ({"submitted_time": "2999-01-01T00:00:00Z"}, ("bad-submitted-time", "future")),
    ({"submitted_time": "2026-01-01T00:00:00"}, ("submitted_time",)),
    ({"submitted_time": 1}, ("submitted_time",)),
    ({"subject_identities": []}, ("subject_identities",)),
    ({"status_callback_urls": ["https://127.0.0.1/in"]}, ("bad-destination",)),
    ({"status_callback_urls": ["https://169.254.169.254/in"]}, ("bad-destination",)),
    ({"status_callback_urls": ["http://93.184.215.14/in"]}, ("bad-destination",)),
    ({"status_callback_urls": [CALLBACK] * 11}, ("status_callback_urls",)),
    ({"extensions": {certificates.DOMAIN: {}}}, ("no extensions",)),
    ({"property_id": "1"}, ("property_id",)),
]


@pytest.mark.parametrize(("wrong", "words"), REFUSED)
def test_a_wrong_request_is_refused_as_the_specification_has_it(
    app: FastAPI, client: TestClient, wrong: dict[str, Any], words: tuple[str, ...]
) -> None:
    before = rows(app)
    answer = client.post(URL, json=body() | wrong)
    assert_problem(answer, 400, *words)
    error = answer.json()["error"]
    assert error["code"] == answer.json()["status"] == 400
    assert error["message"] == answer.json()["detail"]
    assert all(set(one) == {"domain", "reason", "message"} for one in error["errors"])
    assert "planted" not in answer.text
    assert rows(app) == before


@pytest.mark.parametrize("missing", ["regulation", "subject_request_id", "submitted_time"])
def test_a_required_property_is_named(client: TestClient, missing: str) -> None:
    answer = client.post(URL, json={k: v for k, v in body().items() if k != missing})
    assert_problem(answer, 400, f"body.{missing}", "Field required")


def test_identities_that_cannot_be_matched_are_refused_whole(
    app: FastAPI, client: TestClient
) -> None:
    before = rows(app)
    for given in (
        body("planted", kind="android_id"),
        body("ab" * 16, kind="email", form="md5"),
        body("planted-no-hash", form="sha256"),
    ):
        given["subject_identities"] += body()["subject_identities"]
        answer = client.post(URL, json=given)
        assert_problem(answer, 400, "subject_identities.0")
        assert "planted" not in answer.text
    unknown = client.post(URL, json=body("planted", kind="phone"))
    assert_problem(unknown, 400, "identity_type")
    assert "planted" not in unknown.text
    assert rows(app) == before


def test_too_many_identities_are_refused(app: FastAPI, client: TestClient) -> None:
    before = rows(app)
    many = [f"planted-{number}" for number in range(schemas.MOST_IDENTITIES + 1)]
    answer = client.post(URL, json=body(*many))
    assert_problem(answer, 400, "subject_identities")
    assert "planted" not in answer.text
    assert rows(app) == before


def test_what_does_not_fit_into_the_queue_is_refused_whole(
    app: FastAPI, client: TestClient
) -> None:
    sent(client, body())
    before = rows(app)
    app.state.settings = app.state.settings.model_copy(update={"max_queue": 2})
    given = body(PERSON, "ann", kind="controller_customer_id")
    answer = client.post(URL, json=given)
    assert_problem(answer, 429, "queue-full")
    assert int(answer.headers["Retry-After"]) > 0
    assert rows(app) == before


def test_while_a_dataset_is_read_an_unknown_person_is_to_ask_again(
    app: FastAPI, client: TestClient
) -> None:
    with app.state.sessions() as session:
        factories.dataset(session, name="new", status=DatasetStatus.INGESTING, ready_at=None)
        session.commit()
    before = rows(app)
    answer = client.post(URL, json=body("nobody", kind="controller_customer_id"))
    assert_problem(answer, 409, "dataset-not-ready")
    assert answer.headers["Retry-After"] == "5"
    assert rows(app) == before


def test_scopes_are_those_of_deletion_requests(app: FastAPI, client: TestClient) -> None:
    given = body()
    reader, writer = (callers.client(app, f"requests:{one}") for one in ("read", "write"))
    for refused in (reader.post(URL, json=given), TestClient(app).post(URL, json=given)):
        assert_problem(refused, 403 if "Authorization" in refused.request.headers else 401)
        assert refused.json()["error"]["code"] == refused.status_code
    sent(writer, given)
    assert_problem(writer.get(f"{URL}/{given['subject_request_id']}"), 403)
    assert_problem(reader.delete(f"{URL}/{given['subject_request_id']}"), 403)
    assert state(reader, given) == "pending"


def test_without_a_certificate_nothing_is_taken(settings: Settings) -> None:
    with callers.application(settings) as bare:
        client = callers.client(bare)
        for answer in (
            client.get("/opendsr/discovery"),
            client.get("/opendsr/certificate.pem"),
            client.post(URL, json=body()),
            client.get(f"{URL}/{uuid.uuid4()}"),
            client.delete(f"{URL}/{uuid.uuid4()}"),
        ):
            assert_problem(answer, 404, "opendsr-not-configured", "UNLEARN_OPENDSR_DOMAIN")


def test_with_an_expired_certificate_nothing_is_recorded(
    app: FastAPI, client: TestClient, tmp_path: Path
) -> None:
    before = rows(app)
    certificates.pair(days=(-9, -1)).settings(app.state.settings, tmp_path)
    assert_problem(client.post(URL, json=body()), 503, "opendsr-certificate-expired")
    assert rows(app) == before
