"""Deletion requests that exist: read in lists and alone, cancelled, approved, extended, held."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select

from service.api.routes.deletion_requests_schemas import (
    DeletionRequestDetail,
    Events,
)
from service.ledger.database.states import ErasureStatus, RequestStatus
from service.ledger.database.tables import DeletionRequest, Erasure
from tests import factories
from tests.service.api import callers, faces
from tests.service.api.callers import assert_problem
from tests.service.api.faces import URL, ask_for

APPLICATION = faces.application


def test_the_list_is_walked_page_by_page(client: TestClient) -> None:
    made = {client.post(URL, json=ask_for(f"r{row}")).json()["id"] for row in range(5)}
    seen: list[str] = []
    params: dict[str, str] = {"limit": "2", "status": "accepted", "model": "who"}
    while True:
        page = client.get(URL, params=params).json()
        seen += [item["id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        assert len(page["items"]) == 2
        params["cursor"] = page["next_cursor"]
    assert seen == sorted(made)


@pytest.mark.parametrize(
    "query",
    [
        "cursor=x",
        "cursor=WzFd",  # the number 1, a cursor of another list
        "cursor=%00",
        "cursor=W1tbXV1d",
        "limit=0",
        "limit=201",
        "limit=many",
        "status=lost",
        "due_before=tomorrow",
        "due_before=2026-01-01T00:00:00",
        "due_before=0001-01-01T00:00:00%2B14:00",
        "model=No!",
    ],
)
def test_wrong_queries_are_refused(client: TestClient, query: str) -> None:
    assert_problem(client.get(f"{URL}?{query}"), 422)


def test_lists_of_unknown_things_are_not_found(client: TestClient) -> None:
    assert_problem(client.get(URL, params={"model": "unknown"}), 404)
    assert_problem(client.get(URL, params={"dataset": "unknown"}), 404)


def test_unknown_requests_are_not_found(client: TestClient) -> None:
    unknown = f"{URL}/dr_{'0' * 26}"
    for method, path in [
        ("GET", unknown),
        ("GET", f"{unknown}/events"),
        ("DELETE", unknown),
        ("POST", f"{unknown}:retry"),
        ("POST", f"{unknown}:approve"),
    ]:
        assert_problem(client.request(method, path), 404)
    assert_problem(client.post(f"{unknown}:deny", json={}), 404)
    assert_problem(client.get(f"{URL}/dr_short"), 422)


def test_events_tell_the_story_without_names(client: TestClient) -> None:
    made = client.post(URL, json={"dataset": "faces", "subject_id": "planted-person"}).json()
    made = client.post(URL, json=ask_for("r0")).json()
    client.delete(f"{URL}/{made['id']}")
    answer = client.get(f"{URL}/{made['id']}/events")
    Events.model_validate(answer.json())
    actions = [line["action"] for line in answer.json()["items"]]
    assert actions == ["deletion_request:accepted", "deletion_request:cancelled"]
    assert [one["status"] for one in answer.json()["erasures"]] == ["cancelled"]
    first = client.get(f"{URL}/{made['id']}/events", params={"limit": 1}).json()
    rest = client.get(f"{URL}/{made['id']}/events", params={"cursor": first["next_cursor"]}).json()
    assert [*first["items"], *rest["items"]] == answer.json()["items"]
    assert "planted" not in client.get("/v1/audit/events").text


def test_a_request_is_cancelled_once_and_not_when_claimed(client: TestClient, app: FastAPI) -> None:
    free, claimed = (client.post(URL, json=ask_for(name)).json()["id"] for name in ("r0", "r1"))
    assert client.delete(f"{URL}/{free}").json()["status"] == "cancelled"
    # As if the first answer had been lost: nothing changes, and nothing is written again.
    lines = client.get(f"{URL}/{free}/events").json()["items"]
    assert client.delete(f"{URL}/{free}").json()["status"] == "cancelled"
    assert client.get(f"{URL}/{free}/events").json()["items"] == lines
    with app.state.sessions() as session:
        share = session.scalars(select(Erasure).where(Erasure.request_id == claimed)).one()
        share.status = ErasureStatus.CLAIMED
        session.get_one(DeletionRequest, claimed).status = RequestStatus.PROCESSING
        session.commit()
    assert_problem(client.delete(f"{URL}/{claimed}"), 409, "processing")


def test_one_that_needs_review_is_tried_again(client: TestClient, app: FastAPI) -> None:
    made = client.post(URL, json=ask_for("r0")).json()["id"]
    assert_problem(client.post(f"{URL}/{made}:retry"), 409)
    with app.state.sessions() as session:
        session.scalars(select(Erasure)).one().status = ErasureStatus.NEEDS_REVIEW
        session.get_one(DeletionRequest, made).status = RequestStatus.NEEDS_REVIEW
        session.commit()
    shown = client.post(f"{URL}/{made}:retry").json()
    assert (shown["status"], shown["erasures"][0]["status"]) == ("processing", "pending")


@pytest.mark.parametrize(
    ("verdict", "status", "shares"), [("approve", "accepted", 1), ("deny", "denied", 0)]
)
def test_a_large_request_waits_for_somebody_with_the_scope(
    app: FastAPI, verdict: str, status: str, shares: int
) -> None:
    with app.state.sessions() as session:
        data = factories.dataset(session, name="guarded")
        policy = {"approval": {"max_records_per_request": 1}}
        factories.version(session, factories.model(session, data, policy=policy))
        session.commit()
    writer = callers.client(app, "requests:write", "requests:read")
    body = {"dataset": "guarded", "record_ids": ["r0", "r1"]}
    made = writer.post(URL, json=body).json()
    assert made["status"] == "awaiting_approval"
    path = f"{URL}/{made['id']}:{verdict}"
    sent = {} if verdict == "approve" else {"json": {"reason": "a test"}}
    assert_problem(writer.post(path, **sent), 403, "requests:approve")  # type: ignore[arg-type]
    approver = callers.client(app, "requests:approve")
    shown = approver.post(path, **sent).json()  # type: ignore[arg-type]
    assert (shown["status"], len(shown["erasures"])) == (status, shares)
    again = approver.post(path, **sent)  # type: ignore[arg-type]
    if verdict == "deny":  # as if the answer had been lost
        assert (again.status_code, again.json()) == (200, shown)
    else:
        assert_problem(again, 409)


def test_the_answer_is_plain_json_of_the_documented_shape(client: TestClient) -> None:
    answer = client.post(URL, json=ask_for("r0", reason="größer ∑"))
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(answer.content)["reason"] == "größer ∑"


def _days(body: dict[str, Any]) -> timedelta:
    return datetime.fromisoformat(body["due_at"]) - datetime.fromisoformat(body["created_at"])


def test_a_request_names_its_regulation_or_has_that_of_the_settings(
    app: FastAPI, client: TestClient
) -> None:
    named = client.post(URL, json=ask_for("r0", regulation="ccpa")).json()
    assert (named["regulation"], _days(named)) == ("ccpa", timedelta(days=45))
    own = client.post(URL, json=ask_for("r1", regulation="custom", due_days=3)).json()
    assert (own["regulation"], _days(own)) == ("custom", timedelta(days=3))
    app.state.settings = app.state.settings.model_copy(
        update={"regulation": "custom", "due_days": 20}
    )
    usual = client.post(URL, json=ask_for("r2")).json()
    assert (usual["regulation"], _days(usual)) == ("custom", timedelta(days=20))
    seen = client.post(f"{URL}:preview", json=ask_for("r3", regulation="gdpr")).json()
    assert datetime.fromisoformat(seen["due_at"]) > datetime.fromisoformat(usual["due_at"])
    for wrong in ({"due_days": 3}, {"regulation": "custom"}, {"regulation": "hipaa"}):
        assert_problem(client.post(URL, json=ask_for("r4", **wrong)), 422)
    assert_problem(client.post(URL, json=ask_for("r4", regulation="gdpr", due_days=3)), 422)


def test_a_request_is_extended_with_a_reason(app: FastAPI, client: TestClient) -> None:
    made = client.post(URL, json=ask_for("r0")).json()
    path = f"{URL}/{made['id']}:extend"
    body = {"reason_code": "complexity", "reason": "many systems hold it"}
    assert_problem(callers.client(app, "requests:write").post(path, json=body), 403)
    extended = client.post(path, json=body)
    assert extended.status_code == 200, extended.text
    DeletionRequestDetail.model_validate(extended.json())
    assert extended.json()["due_at"] > made["due_at"]
    assert extended.json()["extensions"] == 1
    assert_problem(client.post(path, json={**body, "periods": 2}), 409, "not-extendable")
    for wrong in ({"reason": ""}, {"reason_code": "late"}, {"periods": 3}, {"periods": 0}):
        assert_problem(client.post(path, json={**body, **wrong}), 422)
    assert_problem(client.post(path, json={"reason": "no code"}), 422)


def test_a_legal_hold_is_placed_and_released_with_reasons(app: FastAPI, client: TestClient) -> None:
    made = client.post(URL, json=ask_for("r0")).json()
    path = f"{URL}/{made['id']}"
    body = {"reason_code": "legal_claims", "reason": "docket 4711"}
    assert_problem(callers.client(app, "requests:write").post(f"{path}:hold", json=body), 403)
    for wrong in ({"reason": ""}, {"reason_code": "because"}):
        assert_problem(client.post(f"{path}:hold", json={**body, **wrong}), 422)
    placed = client.post(f"{path}:hold", json=body)
    assert placed.status_code == 200, placed.text
    DeletionRequestDetail.model_validate(placed.json())
    assert placed.json()["legal_hold"] is True
    assert_problem(client.post(f"{path}:hold", json=body), 409)
    assert_problem(client.delete("/v1/models/who"), 409, "under-legal-hold", made["id"])
    released = client.post(f"{path}:release-hold", json={"reason": "settled"})
    assert released.json()["legal_hold"] is False
    assert released.json()["legal_holds"][0]["release_reason"] == "settled"
    assert_problem(client.post(f"{path}:release-hold", json={"reason": "again"}), 409)
    assert client.delete("/v1/models/who").status_code == 202
