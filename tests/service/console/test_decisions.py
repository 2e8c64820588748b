"""Decisions about one request or several, in the console."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import Engine

from service.console.views.bulk import MOST_AT_ONCE
from service.ledger.audit import canonical
from service.ledger.database import db
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import DeletionRequest
from service.ledger.registry import keys
from service.ledger.requests import lookup
from service.ledger.requests.lifecycle import DenialReason
from service.ledger.selection.regulations import months_later
from tests import factories
from tests.conftest import BOTH
from tests.service.console import browsers
from tests.service.console.browsers import signed_in, text
from tests.service.console.recorded import MARKUP, listed_in, recorded_request, status_of


@pytest.fixture(params=BOTH)
def database(request: pytest.FixtureRequest) -> Engine:
    name = "sqlite_database" if request.param == "sqlite" else "postgres_database"
    engine: Engine = request.getfixturevalue(name)
    return engine


def test_each_action_is_offered_where_it_is_possible_and_does_what_it_says(app: FastAPI) -> None:
    browser = signed_in(app, "requests:read", "requests:write", "requests:approve")
    waiting = RequestStatus.AWAITING_APPROVAL
    # What says again that a request ends is answered as the first time.
    for action, before, after, repeated in (
        ("approve", waiting, "accepted", 409),
        ("deny", waiting, "denied", 303),
        ("cancel", waiting, "cancelled", 303),
        ("cancel", RequestStatus.ACCEPTED, "cancelled", 303),
        ("retry", RequestStatus.NEEDS_REVIEW, "processing", 409),
    ):
        one = recorded_request(app, status=before)
        place = f"/requests/{one}"
        assert f'action="{place}/{action}"' in browser.get(place).text
        answer = browser.submit(f"{place}/{action}", {"reason": "not theirs"}, page=place)
        assert answer.headers["location"] == f"{place}?done={action}"
        assert status_of(app, one) == after
        page = browser.get(answer.headers["location"]).text
        assert 'role="status"' in page
        assert f'action="{place}/{action}"' not in page
        again = browser.submit(f"{place}/{action}", page=place)
        assert again.status_code == repeated
        assert repeated == 303 or f"this request is {after}" in text(again.text).lower()
        assert status_of(app, one) == after
    [denied] = [one for one in _of(app) if one.status == RequestStatus.DENIED]
    assert denied.status_reason == "not theirs"


def _detail(app: FastAPI, request_id: str) -> dict[str, Any]:
    with app.state.sessions() as session:
        return lookup.detail(session, lookup.get(session, request_id))


def _offered(page: str) -> set[str]:
    return set(re.findall(r'action="/requests/dr_[0-9a-z]+/([a-z]+)"', page))


def test_a_legal_hold_is_placed_shown_and_released(app: FastAPI) -> None:
    browser = signed_in(app, "requests:read", "requests:approve", name="dpo")
    one = recorded_request(
        app, status=RequestStatus.AWAITING_APPROVAL, due_at=db.now() - timedelta(days=1)
    )
    place = f"/requests/{one}"
    assert _offered(browser.get(place).text) == {"approve", "deny", "hold"}
    fields = {"code": "legal_claims", "reason": f"docket 4711 {MARKUP}"}
    answer = browser.submit(f"{place}/hold", fields, page=place)
    assert answer.headers["location"] == f"{place}?done=hold"
    [hold] = _detail(app, one)["legal_holds"]
    assert (hold["reason_code"], hold["reason"]) == ("legal_claims", fields["reason"])
    page = browser.get(answer.headers["location"]).text
    assert _offered(page) == {"deny", "release"}
    assert f"docket 4711 {MARKUP}" in text(page)
    assert "img" not in [tag for tag, _ in browsers.tags(page)]
    assert "Legal hold placed by" in text(page)
    assert "legal hold" in text(browser.get("/requests").text)
    another = recorded_request(app)
    held = browser.get("/requests", params={"state": "held"}).text
    assert listed_in(held) == [one]
    assert another in listed_in(browser.get("/requests").text)
    assert browser.submit(f"{place}/approve", page=place).status_code == 409
    assert browser.submit(f"{place}/hold", fields, page=place).status_code == 409
    # Also of one that has ended: it keeps its rows until then.
    browser.submit(f"{place}/deny", {"reason": "not theirs"}, page=place)
    assert _offered(browser.get(place).text) == {"release"}
    assert listed_in(browser.get("/requests", params={"state": "held"}).text) == [one]
    answer = browser.submit(f"{place}/release", {"reason": "settled"}, page=place)
    assert answer.headers["location"] == f"{place}?done=release"
    assert _detail(app, one)["legal_hold"] is False
    page = browser.get(answer.headers["location"]).text
    assert _offered(page) == set()
    assert "settled" in text(page)
    assert browser.submit(f"{place}/release", {"reason": "again"}, page=place).status_code == 409


def test_a_denial_has_a_code_that_its_regulation_knows(app: FastAPI) -> None:
    browser = signed_in(app, "requests:read", "requests:approve")
    one, several = (recorded_request(app, status=RequestStatus.AWAITING_APPROVAL) for _ in range(2))
    place = f"/requests/{one}"
    codes = re.findall(r'<option value="([a-z_]+)">', browser.get(place).text)
    assert set(DenialReason) <= set(codes)
    fields = {"code": "because", "reason": "no passport"}
    assert browser.submit(f"{place}/deny", fields, page=place).status_code == 422
    assert status_of(app, one) == "awaiting_approval"
    fields["code"] = "identity_not_verified"
    browser.submit(f"{place}/deny", fields, page=place)
    assert _detail(app, one)["denial_code"] == "identity_not_verified"
    assert "identity not verified" in text(browser.get(place).text)
    browser.submit("/requests/together", {"action": "deny", "request": several}, page="/requests")
    assert _detail(app, several)["denial_code"] == "other"


def test_a_due_date_is_extended_as_far_as_its_regulation_allows(app: FastAPI) -> None:
    browser = signed_in(app, "requests:read", "requests:approve")
    asked = db.now()
    one = recorded_request(app, created_at=asked, due_at=months_later(asked, 1), regulation="gdpr")
    place = f"/requests/{one}"
    fields = {"code": "complexity", "reason": "many archives", "periods": "1"}
    for periods, options in ((2, ["1 month", "2 months"]), (3, ["1 month"])):
        page = browser.get(place).text
        assert re.findall(r"<option value=\"[12]\">([^<]+)<", page) == options
        answer = browser.submit(f"{place}/extend", fields, page=place)
        assert answer.headers["location"] == f"{place}?done=extend"
        found = _detail(app, one)
        assert found["due_at"] == canonical.moment(months_later(asked, periods))
        assert found["extension_reason"] == "many archives"
    page = browser.get(answer.headers["location"]).text
    assert "2 times: many archives" in text(page)
    assert "extend" not in _offered(page)
    assert browser.submit(f"{place}/extend", fields, page=place).status_code == 409
    late = recorded_request(app, created_at=asked, due_at=asked - timedelta(minutes=1))
    place = f"/requests/{late}"
    assert "extend" not in _offered(browser.get(place).text)
    assert browser.submit(f"{place}/extend", fields, page=place).status_code == 409


@pytest.mark.parametrize(
    ("action", "wrong"),
    [
        ("hold", {"code": "because"}),
        ("hold", {"reason": " "}),
        ("hold", {"reason": "x" * 2_001}),
        ("extend", {"code": "legal_claims"}),
        ("extend", {"reason": ""}),
        ("extend", {"periods": "3"}),
        ("extend", {"periods": "-1"}),
    ],
)
def test_a_decision_with_a_senseless_field_changes_nothing(
    app: FastAPI, action: str, wrong: dict[str, str]
) -> None:
    browser = signed_in(app, "requests:read", "requests:approve")
    one = recorded_request(app, created_at=db.now(), due_at=db.now() + timedelta(days=20))
    before = _detail(app, one)
    code = "authority_order" if action == "hold" else "complexity"
    fields = {"code": code, "reason": "why", "periods": "1", **wrong}
    answer = browser.submit(f"/requests/{one}/{action}", fields, page=f"/requests/{one}")
    assert answer.status_code == 422
    assert _detail(app, one) == before


def _of(app: FastAPI) -> list[DeletionRequest]:
    with app.state.sessions() as session:
        return session.query(DeletionRequest).all()


@pytest.mark.parametrize(
    ("action", "status", "scope"),
    [
        ("approve", RequestStatus.AWAITING_APPROVAL, "requests:approve"),
        ("deny", RequestStatus.AWAITING_APPROVAL, "requests:approve"),
        ("retry", RequestStatus.NEEDS_REVIEW, "requests:write"),
        ("cancel", RequestStatus.ACCEPTED, "requests:write"),
        ("extend", RequestStatus.ACCEPTED, "requests:approve"),
        ("hold", RequestStatus.PROCESSING, "requests:approve"),
    ],
)
def test_an_action_needs_its_scope(
    app: FastAPI, action: str, status: RequestStatus, scope: str
) -> None:
    one = recorded_request(app, status=status)
    others = {"requests:read", "requests:write", "requests:approve"} - {scope}
    browser = signed_in(app, *others)
    place = f"/requests/{one}"
    assert f"{place}/{action}" not in browser.get(place).text
    answer = browser.submit(f"{place}/{action}", page=place)
    assert answer.status_code == 403
    assert scope in text(answer.text)
    if action in ("approve", "deny", "retry"):
        fields = {"action": action, "request": one}
        assert browser.submit("/requests/together", fields, page=place).status_code == 403
    assert status_of(app, one) == status


def test_several_requests_are_decided_each_on_its_own(app: FastAPI) -> None:
    first, second = (
        recorded_request(app, status=RequestStatus.AWAITING_APPROVAL) for _ in range(2)
    )
    under_way = recorded_request(app, status=RequestStatus.PROCESSING)
    browser = signed_in(app, "requests:read", "requests:approve")
    chosen = [first, under_way, second, first, "dr_unknown"]
    fields = {"action": "approve", "request": chosen}
    answer = browser.submit("/requests/together", fields, page="/requests")
    page = text(answer.text)
    assert "2 requests approved" in page
    assert "2 requests were left as they are" in page
    assert "this request is processing" in page
    assert [status_of(app, one) for one in (first, second)] == ["accepted"] * 2


def test_one_that_needs_a_second_person_leaves_the_others_approved(app: FastAPI) -> None:
    browser = signed_in(app, "requests:read", "requests:approve", name="dpo")
    with app.state.sessions.begin() as session:
        [mine] = [one.id for one in keys.listing(session) if one.name == "dpo"]
        data = factories.dataset(session, name="faces")
        model = factories.model(session, data, policy={"approval": {"second_person": True}})
        factories.version(session, model)
    waiting = RequestStatus.AWAITING_APPROVAL
    first, own, last = (
        recorded_request(app, status=waiting, principal=who) for who in ("key_crm", mine, "key_crm")
    )
    fields = {"action": "approve", "request": [first, own, last]}
    page = text(browser.submit("/requests/together", fields, page="/requests").text)
    assert "2 requests approved" in page
    assert "have another key with requests:approve do it" in page
    assert [status_of(app, one) for one in (first, own, last)] == [
        "accepted",
        "awaiting_approval",
        "accepted",
    ]


def test_without_a_selection_or_with_another_action_nothing_is_done(app: FastAPI) -> None:
    one = recorded_request(app, status=RequestStatus.AWAITING_APPROVAL)
    browser = signed_in(app)
    for fields in ({"action": "deny"}, {"action": "cancel", "request": one}, {}):
        answer = browser.submit("/requests/together", fields, page="/requests")
        assert answer.status_code in (404, 422)
    assert status_of(app, one) == "awaiting_approval"


def _form(page: str) -> dict[str, str]:
    """Return the fields of the form that confirms a number of requests."""
    [form] = re.findall(r'<form method="post" action="/requests/matching">(.*?)</form>', page, re.S)
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', form))


def test_all_that_match_are_decided_about_after_a_confirmation_that_names_their_number(
    app: FastAPI,
) -> None:
    now = db.now()
    waiting = RequestStatus.AWAITING_APPROVAL
    old = [
        recorded_request(
            app, status=waiting, created_at=now - timedelta(days=9), client_reference="case-1"
        )
        for _ in range(MOST_AT_ONCE + 2)
    ]
    young = recorded_request(app, status=waiting, created_at=now, client_reference="case-1")
    other = recorded_request(app, status=waiting, created_at=now - timedelta(days=9))
    browser = signed_in(app, "requests:read", "requests:approve")
    here = "/requests?state=awaiting_approval&reference=case-1"
    [address] = re.findall(r'href="(/requests/matching\?action=deny[^"]*)"', browser.get(here).text)
    address = address.replace("&amp;", "&")
    assert f"Deny {len(old) + 1} requests" in text(browser.get(address).text)
    page = browser.get(f"{address}&age=7").text
    assert f"Deny {len(old)} requests" in text(page)
    fields = {**_form(page), "code": "duplicate", "reason": "twice"}
    changed = browser.post("/requests/matching", data={**fields, "matching": "3"})
    assert changed.status_code == 409
    assert f"{len(old)} requests fit now, not 3" in text(changed.text)
    answer = browser.post("/requests/matching", data=fields)
    assert answer.status_code == 303
    place = answer.headers["location"]
    headings = []
    while "data-continue" in (page := browser.get(place).text):
        assert browser.submit(f"{place}/continue", page=place).headers["location"] == place
        headings.append(re.findall(r"<h1>(.*?)</h1>", page)[0])
    assert headings == [f"{n} of {len(old)} requests denied" for n in (0, MOST_AT_ONCE)]
    assert f"<h1>{len(old)} requests denied</h1>" in page
    assert {status_of(app, one) for one in old} == {"denied"}
    assert {status_of(app, one) for one in (young, other)} == {"awaiting_approval"}
    with app.state.sessions() as session:
        row = session.get_one(DeletionRequest, old[0])
        assert (row.status_reason, row.denial_code) == ("twice", "duplicate")


def test_a_decision_is_continued_by_the_key_that_began_it_alone(app: FastAPI) -> None:
    one = recorded_request(app, status=RequestStatus.NEEDS_REVIEW)
    browser = signed_in(app, "requests:read", "requests:write")
    page = browser.get("/requests/matching?action=retry").text
    place = browser.post("/requests/matching", data=_form(page)).headers["location"]
    assert "data-continue" not in browser.get(f"{place}?paused=yes").text
    other = signed_in(app)
    assert "Only the key that began it" in text(other.get(place).text)
    assert other.submit(f"{place}/continue").status_code == 403
    reader = signed_in(app, "requests:read")
    assert reader.get("/requests/matching?action=retry").status_code == 403
    assert "retry all" not in reader.get("/requests?state=needs_review").text
    assert reader.submit(f"{place}/continue").status_code == 403
    assert reader.get("/requests/matching?action=burn").status_code == 404
    assert status_of(app, one) == "needs_review"
    for fields in ({"action": "retry"}, {"action": "retry", "matching": "1", "now": "soon"}):
        assert browser.submit("/requests/matching", fields).status_code == 422
    browser.submit(f"{place}/continue", page=place)
    assert status_of(app, one) == "processing"
