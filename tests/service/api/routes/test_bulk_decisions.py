"""One decision about every request that fits a filter: counted, confirmed, done in portions."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select, update

from service.ledger.audit import canonical, chain
from service.ledger.database import db, ids
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import AuditEvent, DeletionRequest, LegalHold
from service.ledger.registry import keys
from service.ledger.requests import bulk
from tests import factories
from tests.service.api import callers
from tests.service.api.callers import assert_problem

URL = "/v1/bulk-decisions"
WAITING = RequestStatus.AWAITING_APPROVAL


@pytest.fixture
def officer(app: FastAPI) -> TestClient:
    return callers.client(app, "requests:read", "requests:approve")


def _asked(app: FastAPI, number: int = 1, **columns: Any) -> list[str]:
    with app.state.sessions.begin() as session:
        name = columns.pop("dataset", "faces")
        data = session.query(factories.Dataset).filter_by(name=name).first()
        data = data or factories.dataset(session, name=name)
        columns = {"status": WAITING, "rows": (), **columns}
        return [factories.request(session, data, **columns).id for _ in range(number)]


def _states(app: FastAPI, which: list[str]) -> list[str]:
    with app.state.sessions() as session:
        return [str(session.get_one(DeletionRequest, one).status) for one in which]


def _lines(app: FastAPI, action: str) -> list[AuditEvent]:
    with app.state.sessions() as session:
        found = select(AuditEvent).where(AuditEvent.action == action).order_by(AuditEvent.seq)
        return list(session.scalars(found))


def _begin(client: TestClient, matching: int, **body: Any) -> Any:
    answer = client.post(URL, json={"action": "approve", "matching": matching, **body})
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert answer.headers["location"] == f"{URL}/{made['id']}"
    return made


def _go_on(client: TestClient, decision: str, limit: int = 200) -> Any:
    answer = client.post(f"{URL}/{decision}:continue", params={"limit": limit})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_every_request_that_fits_is_approved_in_portions_and_each_has_its_line(
    app: FastAPI, officer: TestClient
) -> None:
    mine = _asked(app, 7)
    others = _asked(app, dataset="cars") + _asked(app, status=RequestStatus.NEEDS_REVIEW)
    fits = {"action": "approve", "filter": {"dataset": "faces"}}
    seen = officer.post(f"{URL}:preview", json=fits).json()
    with app.state.sessions() as session:
        last = max(session.scalars(select(AuditEvent.seq)))
    assert seen == {"action": "approve", "matching": 7, "counted_up_to": last}
    made = _begin(officer, 7, filter=fits["filter"])
    assert _states(app, mine) == ["awaiting_approval"] * 7
    later = _asked(app)  # after the confirmation
    progress = []
    while made["ended_at"] is None:
        made = _go_on(officer, made["id"], limit=3)
        assert made == officer.get(f"{URL}/{made['id']}").json()
        progress.append(made["done"])
    assert progress == [3, 6, 7]
    assert _states(app, mine) == ["accepted"] * 7
    assert _states(app, later + others) == ["awaiting_approval"] * 2 + ["needs_review"]
    approved = _lines(app, "deletion_request:approved")
    assert [line.subject for line in approved] == [f"deletion_request:{one}" for one in mine]
    [begun] = _lines(app, "bulk_decision:begun")
    [ended] = _lines(app, "bulk_decision:ended")
    assert begun.data == {
        "action": "approve",
        "matching": 7,
        "filter": {"dataset": "faces"},
        "counted_up_to": begun.seq - 1,
    }
    assert ended.data == {"action": "approve", "done": 7, "refused": 0}
    assert {line.actor for line in (begun, ended, *approved)} == {begun.actor}
    assert _go_on(officer, made["id"]) == made  # it is over
    assert len(_lines(app, "bulk_decision:ended")) == 1


@pytest.mark.parametrize("action", ["deny", "retry"])
def test_what_was_recorded_after_the_count_is_not_decided_about_though_its_id_is_earlier(
    app: FastAPI, action: str
) -> None:
    client = callers.client(app, "requests:read", "requests:approve", "requests:write")
    state = bulk.STATES[bulk.Action(action)]
    early = ids.new("dr")  # of a call that has not committed, or of a machine whose clock is behind
    mine = _asked(app, 2, status=state)
    made = _begin(client, 2, action=action)
    with app.state.sessions.begin() as session:
        data = session.query(factories.Dataset).one()
        factories.request(session, data, id=early, status=state, rows=())
        subject = f"deletion_request:{early}"
        chain.append(session, actor="w", action=bulk.CAME[state], subject=subject, data={})
    ended = _go_on(client, made["id"])
    assert (ended["done"], ended["refused"]) == (2, 0)
    assert ended["ended_at"] is not None
    assert _states(app, [early]) == [state]
    assert state not in _states(app, mine)


@pytest.mark.parametrize("action", bulk.Action)
def test_others_than_those_that_were_counted_are_told_though_their_number_is_the_same(
    app: FastAPI, action: bulk.Action
) -> None:
    client = callers.client(app, "requests:read", "requests:approve", "requests:write")
    state = bulk.STATES[action]
    first, second = _asked(app, 2, status=state)
    seen = client.post(f"{URL}:preview", json={"action": action}).json()
    with app.state.sessions.begin() as session:
        gone = update(DeletionRequest).where(DeletionRequest.id == first)
        session.execute(gone.values(status=RequestStatus.PROCESSING))
        data = session.query(factories.Dataset).one()
        unseen = factories.request(session, data, status=state, rows=()).id
        subject = f"deletion_request:{unseen}"
        chain.append(session, actor="w", action=bulk.CAME[state], subject=subject, data={})
    answer = client.post(URL, json=seen)
    assert_problem(answer, 409, "others than those that were counted")
    assert (answer.json()["code"], answer.json()["matching"]) == ("count-changed", 2)
    assert _lines(app, "bulk_decision:begun") == []
    assert _states(app, [second, unseen]) == [state] * 2
    again = client.post(f"{URL}:preview", json={"action": action}).json()
    assert _go_on(client, client.post(URL, json=again).json()["id"])["done"] == 2


def test_each_condition_chooses(app: FastAPI, officer: TestClient) -> None:
    now = db.now()
    soon = _asked(app, due_at=now + timedelta(days=1), created_at=now)
    old = _asked(app, due_at=now + timedelta(days=20), created_at=now - timedelta(days=9))
    named = _asked(app, due_at=now + timedelta(days=20), created_at=now, client_reference="case-7")
    with app.state.sessions.begin() as session:
        request = session.get_one(DeletionRequest, named[0])
        data = session.query(factories.Dataset).one()
        factories.erasure(session, request, factories.model(session, data, name="who"))
    week = canonical.moment(now + timedelta(days=7))
    ago = canonical.moment(now - timedelta(days=7))
    for chosen, fitting in (
        ({"due_before": week}, soon),
        ({"received_before": ago}, old),
        ({"reference": "case-"}, named),
        ({"model": "who"}, named),
        ({"dataset": "none"}, []),
        ({}, soon + old + named),
    ):
        body = {"action": "deny", "filter": chosen}
        assert officer.post(f"{URL}:preview", json=body).json()["matching"] == len(fitting)
        made = _begin(officer, len(fitting), **body, reason="not theirs", reason_code="duplicate")
        _go_on(officer, made["id"])
        assert _states(app, fitting) == ["denied"] * len(fitting)
        with app.state.sessions.begin() as session:  # back, for the next condition
            for one in fitting:
                row = session.get_one(DeletionRequest, one)
                assert (row.status_reason, row.denial_code) == ("not theirs", "duplicate")
                back = update(DeletionRequest).where(DeletionRequest.id == one)
                session.execute(back.values(status=WAITING, status_reason=None))


def test_the_reference_stands_in_no_line_of_the_chain(app: FastAPI, officer: TestClient) -> None:
    _asked(app, client_reference="ann@example.org")
    made = _begin(officer, 1, filter={"reference": "ann@"})
    _go_on(officer, made["id"])
    with app.state.sessions() as session:
        for line in session.scalars(select(AuditEvent)):
            assert "ann@" not in str(line.data)


def test_a_number_that_has_changed_is_told_and_nothing_is_done(
    app: FastAPI, officer: TestClient
) -> None:
    waiting = _asked(app, 2)
    answer = officer.post(URL, json={"action": "approve", "matching": 1})
    assert_problem(answer, 409, "2 requests fit now, not 1")
    assert answer.json()["matching"] == 2
    assert _lines(app, "bulk_decision:begun") == []
    assert _states(app, waiting) == ["awaiting_approval"] * 2


def test_what_is_refused_alone_is_refused_here_and_leaves_the_others(
    app: FastAPI, officer: TestClient
) -> None:
    with app.state.sessions.begin() as session:
        [mine] = [one.id for one in keys.listing(session)]
        data = factories.dataset(session, name="faces")
        policy = {"approval": {"second_person": True}}
        factories.version(session, factories.model(session, data, policy=policy))
    first, own, held, last = (
        _asked(app, principal=who)[0] for who in ("key_crm", mine, "key_crm", "key_crm")
    )
    reason = {"reason_code": "legal_claims", "reason": "docket 4711"}
    assert officer.post(f"/v1/deletion-requests/{held}:hold", json=reason).status_code == 200
    made = _go_on(officer, _begin(officer, 4)["id"])
    assert (made["done"], made["refused"]) == (2, 2)
    assert made["ended_at"] is not None
    assert [one["request"] for one in made["refusals"]] == [own, held]
    assert "have another key" in made["refusals"][0]["detail"]
    assert "legal hold" in made["refusals"][1]["detail"]
    assert _states(app, [first, own, held, last]) == [
        "accepted",
        "awaiting_approval",
        "awaiting_approval",
        "accepted",
    ]
    with app.state.sessions() as session:
        assert session.scalars(select(LegalHold.released_at)).one() is None


def test_requests_that_need_review_are_tried_again_by_a_key_that_writes(app: FastAPI) -> None:
    broken = _asked(app, 2, status=RequestStatus.NEEDS_REVIEW)
    writer = callers.client(app, "requests:read", "requests:write")
    made = _begin(writer, 2, action="retry")
    assert _go_on(writer, made["id"])["done"] == 2
    assert _states(app, broken) == ["processing"] * 2
    assert_problem(
        writer.post(f"{URL}:preview", json={"action": "approve"}), 403, "requests:approve"
    )
    approver = callers.client(app, "requests:read", "requests:approve")
    for call, body in ((f"{URL}:preview", {}), (URL, {"matching": 0})):
        answer = approver.post(call, json={"action": "retry", **body})
        assert_problem(answer, 403, "requests:write")


def test_nobody_else_goes_on_with_a_decision(app: FastAPI, officer: TestClient) -> None:
    waiting = _asked(app)
    made = _begin(officer, 1)
    other = callers.client(app, "requests:read", "requests:approve")
    assert_problem(other.post(f"{URL}/{made['id']}:continue"), 403, "somebody else began")
    reader = callers.client(app, "requests:read")
    assert_problem(reader.post(f"{URL}/{made['id']}:continue"), 403, "requests:approve")
    assert reader.get(f"{URL}/{made['id']}").json() == made
    assert _states(app, waiting) == ["awaiting_approval"]
    assert_problem(reader.get(f"{URL}/bd_{'0' * 26}"), 404)


def test_two_calls_at_once_decide_about_each_request_once(
    app: FastAPI, officer: TestClient
) -> None:
    waiting = _asked(app, 20)
    made = _begin(officer, 20)
    answers: list[Any] = []
    calls = [
        threading.Thread(target=lambda: answers.append(_go_on(officer, made["id"])))
        for _ in range(3)
    ]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    assert len(answers) == 3
    ended = _go_on(officer, made["id"])
    assert (ended["done"], ended["refused"], ended["refusals"]) == (20, 0, [])
    assert _states(app, waiting) == ["accepted"] * 20
    approved = [line.subject for line in _lines(app, "deletion_request:approved")]
    assert sorted(approved) == sorted(f"deletion_request:{one}" for one in waiting)
    assert len(_lines(app, "bulk_decision:ended")) == 1


def test_what_somebody_else_decided_meanwhile_is_passed_over(
    app: FastAPI, officer: TestClient
) -> None:
    first, second = _asked(app, 2)
    made = _begin(officer, 2)
    assert officer.post(f"/v1/deletion-requests/{first}:deny").status_code == 200
    ended = _go_on(officer, made["id"])
    assert (ended["done"], ended["refused"], ended["matching"]) == (1, 0, 2)
    assert _states(app, [first, second]) == ["denied", "accepted"]
