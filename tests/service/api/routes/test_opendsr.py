"""OpenDSR 2.0 over HTTP, on both databases: its states, its errors, its signatures."""

from __future__ import annotations

import base64
import json
import logging
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import func, select

from service.api.routes import opendsr_schemas as schemas
from service.ledger.audit import chain
from service.ledger.audit.machines import requests as machine
from service.ledger.database.states import DatasetStatus, RequestStatus
from service.ledger.database.tables import (
    AuditEvent,
    Dataset,
    DeletionRequest,
    OpenDsrCallback,
    OpenDsrPart,
    OpenDsrRequest,
    Suppression,
)
from service.ledger.registry import keys
from service.ledger.requests import outlook
from service.ledger.selection.regulations import Period, Regulation
from service.settings import Settings
from tests import certificates, factories
from tests.service.api import callers
from tests.service.api.callers import assert_problem

URL = "/opendsr/requests"
PERSON = "planted-person@example.org"
CALLBACK = "https://93.184.215.14/opendsr/callbacks?token=planted-token"
#: Everything that a request writes.
WRITTEN = (
    DeletionRequest,
    OpenDsrRequest,
    OpenDsrPart,
    OpenDsrCallback,
    Suppression,
    AuditEvent,
)


@pytest.fixture
def app(settings: Settings, tmp_path: Path) -> Iterator[FastAPI]:
    own = {
        "subject_key": SecretStr(factories.DIGESTER.keys[0].decode()),
        "opendsr_identities": "email:raw, email:sha256, controller_customer_id:raw",
        "max_queue": 12,
    }
    made = certificates.pair().settings(settings, tmp_path, **own)
    with callers.application(made) as running:
        with running.state.sessions() as session:
            data = factories.dataset(session, name="faces", subjects=["ann", *[PERSON] * 11])
            factories.version(session, factories.model(session, data, name="who"))
            session.commit()
        yield running


@pytest.fixture
def client(app: FastAPI) -> TestClient:
    return callers.client(app, "opendsr:write")


def body(*values: str, kind: str = "email", form: str = "raw", **more: Any) -> dict[str, Any]:
    return {
        "regulation": "gdpr",
        "subject_request_id": str(uuid.uuid4()),
        "subject_request_type": "erasure",
        "submitted_time": datetime.now(UTC).isoformat(),
        "subject_identities": [
            {"identity_type": kind, "identity_value": value, "identity_format": form}
            for value in values or (PERSON,)
        ],
        "api_version": "2.0",
        **more,
    }


def sent(client: TestClient, given: dict[str, Any]) -> dict[str, Any]:
    answer = client.post(URL, json=given)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def state(client: TestClient, given: dict[str, Any]) -> str:
    answer = client.get(f"{URL}/{given['subject_request_id']}")
    assert answer.status_code == 200, answer.text
    schemas.State.model_validate(answer.json())
    return str(answer.json()["request_status"])


def rows(app: FastAPI) -> dict[str, int]:
    with app.state.sessions() as session:
        return {
            kind.__tablename__: session.scalar(select(func.count()).select_from(kind)) or 0
            for kind in WRITTEN
        }


def asked(app: FastAPI) -> list[DeletionRequest]:
    with app.state.sessions() as session:
        return list(session.scalars(select(DeletionRequest).order_by(DeletionRequest.id)))


def move(app: FastAPI, request_id: str, *states: RequestStatus) -> None:
    """Have a request pass through states, as workers do, each with a line of the chain."""
    for new in states:
        with app.state.sessions() as session:
            machine.move(session.get_one(DeletionRequest, request_id), new)
            subject = f"deletion_request:{request_id}"
            action = chain.Action.DELETION_REQUEST_COMPLETED
            chain.append(session, actor="worker:w", action=action, subject=subject, data={})
            session.commit()


def check_signed(answer: Any, client: TestClient) -> None:
    """Check an answer as a controller does, with nothing but what discovery names."""
    url = client.get("/opendsr/discovery").json()["processor_certificate"]
    domain = answer.headers["X-OpenDSR-Processor-Domain"]
    assert url == f"https://{domain}/opendsr/certificate.pem"
    pem = client.get("/opendsr/certificate.pem").content
    key = x509.load_pem_x509_certificate(pem).public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    value = base64.b64decode(answer.headers["X-OpenDSR-Signature"], validate=True)
    key.verify(value, answer.content, padding.PKCS1v15(), SHA256())


def test_discovery_is_open_and_says_what_can_be_matched(app: FastAPI) -> None:
    answer = TestClient(app).get("/opendsr/discovery")
    schemas.Discovery.model_validate(answer.json())
    assert answer.json()["api_version"] == "2.0"
    assert answer.json()["supported_subject_request_types"] == ["erasure"]
    assert answer.json()["supported_identities"] == [
        {"identity_type": kind, "identity_format": form}
        for kind, form in (("controller_customer_id", "raw"), ("email", "raw"), ("email", "sha256"))
    ]


def test_the_path_with_the_major_version_means_the_same(app: FastAPI, client: TestClient) -> None:
    plain, versioned = client.get("/opendsr/discovery"), client.get("/opendsr/v2/discovery")
    assert versioned.json() == plain.json()
    given = body()
    assert client.post("/opendsr/v2/requests", json=given).status_code == 201
    assert state(client, given) == "pending"


def test_a_request_is_answered_with_a_signed_receipt(app: FastAPI, client: TestClient) -> None:
    given = body()
    raw = json.dumps(given, indent=1).encode()
    answer = client.post(URL, content=raw, headers={"Content-Type": "application/json"})
    assert answer.status_code == 201
    check_signed(answer, client)
    schemas.Received.model_validate(answer.json())
    assert base64.b64decode(answer.json()["encoded_request"]) == raw
    assert answer.json()["controller_id"] == "test"
    assert answer.json()["subject_request_id"] == given["subject_request_id"]
    found = asked(app)
    # One for the raw form and one for its hash, both of which may have been ingested.
    assert [(one.kind, one.matched, one.status.value) for one in found] == [
        ("subject", 11, "accepted"),
        ("subject", 0, "no_match"),
    ]
    assert {one.client_reference for one in found} == {f"opendsr:{given['subject_request_id']}"}


def test_a_request_passes_through_the_states_of_the_specification(
    app: FastAPI, client: TestClient
) -> None:
    given = body()
    sent(client, given)
    assert state(client, given) == "pending"
    first = asked(app)[0].id
    move(app, first, RequestStatus.PROCESSING)
    assert state(client, given) == "in_progress"
    move(app, first, RequestStatus.NEEDS_REVIEW)
    assert state(client, given) == "in_progress"
    move(app, first, RequestStatus.PROCESSING, RequestStatus.COMPLETED)
    assert state(client, given) == "completed"
    check_signed(client.get(f"{URL}/{given['subject_request_id']}"), client)


def test_a_pending_request_is_cancelled_with_a_signed_receipt(
    app: FastAPI, client: TestClient
) -> None:
    given = body()
    sent(client, given)
    answer = client.delete(f"{URL}/{given['subject_request_id']}")
    assert answer.status_code == 202
    schemas.Cancelled.model_validate(answer.json())
    check_signed(answer, client)
    assert state(client, given) == "cancelled"
    assert [one.status.value for one in asked(app)] == ["cancelled", "no_match"]
    # As if the answer had been lost.
    before = rows(app)
    again = client.delete(f"{URL}/{given['subject_request_id']}")
    assert again.status_code == 202
    check_signed(again, client)
    assert rows(app) == before


@pytest.mark.parametrize("ended", [False, True])
def test_what_is_begun_or_has_ended_is_not_cancelled(
    app: FastAPI, client: TestClient, ended: bool
) -> None:
    given = body()
    sent(client, given)
    states = (RequestStatus.PROCESSING, RequestStatus.COMPLETED)
    move(app, asked(app)[0].id, *states[: 1 + ended])
    before = rows(app)
    answer = client.delete(f"{URL}/{given['subject_request_id']}")
    assert_problem(answer, 409, "not-pending", "only a pending one")
    assert answer.json()["error"]["code"] == 409
    assert rows(app) == before


def test_of_several_identities_all_are_cancelled_or_none(app: FastAPI, client: TestClient) -> None:
    given = body(PERSON, "ann", kind="controller_customer_id")
    sent(client, given)
    move(app, asked(app)[1].id, RequestStatus.PROCESSING)
    assert_problem(client.delete(f"{URL}/{given['subject_request_id']}"), 409, "in_progress")
    assert [one.status.value for one in asked(app)] == ["accepted", "processing"]


def test_a_denied_request_counts_as_cancelled(app: FastAPI, client: TestClient) -> None:
    with app.state.sessions() as session:
        data = session.scalar(select(Dataset))
        assert data is not None
        policy = {"approval": {"max_records_per_request": 3}}
        factories.version(session, factories.model(session, data, name="careful", policy=policy))
        session.commit()
    given = body()
    sent(client, given)
    assert state(client, given) == "pending"
    request = asked(app)[0]
    assert request.status == RequestStatus.AWAITING_APPROVAL
    admin = callers.client(app)
    assert admin.post(f"/v1/deletion-requests/{request.id}:deny").status_code == 200
    assert state(client, given) == "cancelled"
    assert_problem(client.delete(f"{URL}/{given['subject_request_id']}"), 409, "not-pending")


def test_an_unknown_person_is_answered_like_a_known_one(app: FastAPI, client: TestClient) -> None:
    known, unknown = body(), body("nobody@example.org")
    first, second = sent(client, known), sent(client, unknown)
    assert first.keys() == second.keys()
    assert state(client, unknown) == "completed"
    other = ("encoded_request", "subject_request_id", "received_time", "expected_completion_time")
    assert {k: v for k, v in first.items() if k not in other} == {
        k: v for k, v in second.items() if k not in other
    }


def test_the_due_date_counts_from_when_the_person_asked(app: FastAPI, client: TestClient) -> None:
    then = datetime.now(UTC).replace(microsecond=0) - timedelta(days=20)
    sent(client, body(submitted_time=then.isoformat(), regulation="ccpa"))
    request = asked(app)[0]
    assert request.due_at == outlook.due(then, Period(Regulation.CCPA))
    extended = callers.client(app).post(
        f"/v1/deletion-requests/{request.id}:extend",
        json={"reason_code": "complexity", "reason": "many"},
    )
    assert extended.status_code == 200, extended.text
    due = datetime.fromisoformat(extended.json()["due_at"])
    assert due == Period(Regulation.CCPA).due(then, extensions=1)


def test_a_repetition_gets_the_same_answer_and_records_nothing(
    app: FastAPI, client: TestClient
) -> None:
    given = body(status_callback_urls=[CALLBACK])
    first = sent(client, given)
    before = rows(app)
    assert sent(client, dict(reversed(given.items()))) | {"encoded_request": ""} == first | {
        "encoded_request": ""
    }
    assert rows(app) == before
    changed = client.post(URL, json=given | {"regulation": "ccpa"})
    assert_problem(changed, 400, "subject-request-id-reused")
    assert rows(app) == before


def test_a_repetition_is_known_whatever_its_callbacks_would_be_answered_now(
    app: FastAPI, client: TestClient
) -> None:
    """A resolver that does not answer, or answers otherwise, is not asked."""
    given = body(status_callback_urls=[CALLBACK.replace("https:", "http:")])
    usual = app.state.settings
    app.state.settings = usual.model_copy(update={"webhook_http": True})
    first = sent(client, given)
    app.state.settings = usual
    assert sent(client, given)["subject_request_id"] == first["subject_request_id"]
    other = given | {"subject_request_id": str(uuid.uuid4())}
    assert_problem(client.post(URL, json=other), 400, "bad-destination")


def test_the_scope_of_controllers_opens_nothing_else(client: TestClient) -> None:
    sent(client, body())
    for path in ("/v1/deletion-requests", "/v1/models", "/v1/datasets", "/v1/audit/events"):
        assert_problem(client.get(path), 403, "scope")
    assert_problem(client.post("/v1/deletion-requests", json={}), 403, "scope")


def test_equal_requests_at_one_moment_are_recorded_once(app: FastAPI) -> None:
    given, gate = body(), threading.Barrier(4)
    clients = [callers.client(app, "requests:write") for _ in range(4)]

    def send(one: TestClient) -> int:
        gate.wait()
        return int(one.post(URL, json=given).status_code)

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(send, clients)) == [201] * 4
    assert len(asked(app)) == 2
    assert rows(app)["opendsr_requests"] == 1


def test_controllers_do_not_see_each_others_requests(app: FastAPI, client: TestClient) -> None:
    given = body()
    sent(client, given)
    with app.state.sessions() as session:
        _, token = keys.create(session, "another", ["admin"], actor="cli")
        session.commit()
    other = TestClient(app, headers={"Authorization": f"Bearer {token}"})
    assert_problem(other.get(f"{URL}/{given['subject_request_id']}"), 404)
    assert_problem(other.delete(f"{URL}/{given['subject_request_id']}"), 404)
    sent(other, given)
    assert rows(app)["opendsr_requests"] == 2
    # A renewed key of the same name is the same controller.
    assert state(callers.client(app, "requests:read"), given) == "pending"


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


def test_neither_identities_nor_callback_urls_are_logged_or_audited(
    app: FastAPI, client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        given = body(status_callback_urls=[CALLBACK])
        sent(client, given)
        state(client, given)
        client.delete(f"{URL}/{given['subject_request_id']}")
        client.get(f"{URL}/planted")
    with app.state.sessions() as session:
        lines = session.scalars(select(AuditEvent)).all()
        said = str([(line.subject, line.data) for line in lines])
    ours = [one.getMessage() for one in caplog.records if one.name.startswith("service")]
    assert sum("/opendsr/requests/{subject_request_id} " in one for one in ours) == 3
    assert "planted" not in said + str(ours)


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
