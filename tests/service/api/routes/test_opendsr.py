"""OpenDSR 2.0 over HTTP, on both databases: its states and its signatures."""

from __future__ import annotations

import base64
import json
import logging
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select

from service.api.routes import opendsr_schemas as schemas
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import (
    AuditEvent,
    Dataset,
)
from service.ledger.registry import keys
from service.ledger.requests import outlook
from service.ledger.selection.regulations import Period, Regulation
from tests import factories
from tests.service.api import callers, controller
from tests.service.api.callers import assert_problem
from tests.service.api.controller import (
    CALLBACK,
    PERSON,
    URL,
    asked,
    body,
    check_signed,
    move,
    rows,
    sent,
    state,
)

APPLICATION = controller.faces
SCOPES = ("opendsr:write",)


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
