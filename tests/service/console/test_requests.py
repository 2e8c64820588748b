"""The list of requests, and one request."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from fastapi import FastAPI
from sqlalchemy import Engine

from service.ledger.database import db
from service.ledger.database.states import ErasureStatus, RequestStatus
from service.ledger.requests import lifecycle
from tests import factories
from tests.conftest import BOTH
from tests.service.console import browsers
from tests.service.console.browsers import signed_in, text
from tests.service.console.recorded import MARKUP, listed_in, recorded_request


@pytest.fixture(params=BOTH)
def database(request: pytest.FixtureRequest) -> Engine:
    name = "sqlite_database" if request.param == "sqlite" else "postgres_database"
    engine: Engine = request.getfixturevalue(name)
    return engine


def test_open_requests_come_by_days_left_and_history_newest_first(app: FastAPI) -> None:
    now = db.now()
    late = recorded_request(app, due_at=now - timedelta(days=2, hours=1))
    far = recorded_request(app, due_at=now + timedelta(days=20, hours=1))
    near = recorded_request(
        app, due_at=now + timedelta(days=3, hours=1), status=RequestStatus.PROCESSING
    )
    done = recorded_request(app, due_at=now - timedelta(days=9), status=RequestStatus.COMPLETED)
    browser = signed_in(app, "requests:read")
    page = browser.get("/requests").text
    assert listed_in(page) == [late, near, far]
    assert re.findall(r"overdue by \d+ days|\d+ days left", text(page)) == [
        "overdue by 2 days",
        "3 days left",
        "20 days left",
    ]
    assert listed_in(browser.get("/requests?state=all").text) == [done, near, far, late]
    assert listed_in(browser.get("/requests?state=completed").text) == [done]
    assert listed_in(browser.get("/requests?state=processing").text) == [near]
    assert listed_in(browser.get("/requests?due=7").text) == [late, near]
    assert listed_in(browser.get("/requests?due=0").text) == [late]


def test_a_list_is_paged_in_its_order_without_gaps(app: FastAPI) -> None:
    now = db.now()
    due = [now + timedelta(days=days) for days in (5, 1, 5, 5, 3, 2, 9)]
    made = [recorded_request(app, due_at=moment) for moment in due]
    wanted = [one for _, one in sorted(zip(due, made, strict=True))]
    browser = signed_in(app, "requests:read")
    for first, order in (
        ("/requests?limit=3", wanted),
        ("/requests?state=all&limit=3", made[::-1]),
    ):
        seen, address = [], first
        while address:
            page = browser.get(address).text
            seen += listed_in(page)
            following = re.search(r'href="([^"]*cursor=[^"]*)"', page)
            address = following[1].replace("&amp;", "&") + "&limit=3" if following else ""
        assert seen == order


@pytest.mark.parametrize("cursor", ["WyJ4Il0", "WzFd", "x", "WyIgZHJfIl0"])
def test_a_place_of_another_list_is_refused(app: FastAPI, cursor: str) -> None:
    answer = signed_in(app, "requests:read").get("/requests", params={"cursor": cursor})
    assert answer.status_code == 422


def test_references_are_found_by_how_they_begin(app: FastAPI) -> None:
    mine = recorded_request(app, client_reference="ticket-12")
    longer = recorded_request(app, client_reference="ticket-123")
    recorded_request(app, client_reference="TICKET-12")
    recorded_request(app, client_reference="a%")
    recorded_request(app)
    browser = signed_in(app, "requests:read")
    for begins, found in (("ticket-12", {mine, longer}), ("ticket-123", {longer}), ("%", set())):
        for state in ("open", "all"):
            page = browser.get("/requests", params={"reference": begins, "state": state}).text
            assert set(listed_in(page)) == found


def test_requests_are_found_by_dataset_and_model(app: FastAPI) -> None:
    with app.state.sessions.begin() as session:
        faces, cars = (factories.dataset(session, name=name) for name in ("faces", "cars"))
        model = factories.model(session, faces, name="who")
        of_faces = factories.request(session, faces)
        factories.erasure(session, of_faces, model)
        of_cars = factories.request(session, cars)
    browser = signed_in(app, "requests:read")
    assert listed_in(browser.get("/requests?dataset=cars").text) == [of_cars.id]
    assert listed_in(browser.get("/requests?model=who").text) == [of_faces.id]
    assert listed_in(browser.get("/requests?dataset=none").text) == []
    assert listed_in(browser.get("/requests?model=none").text) == []


def test_the_list_costs_as_many_statements_at_a_thousand_requests_as_at_ten(app: FastAPI) -> None:
    browser = signed_in(app)
    counts = []
    for number in (10, 990):
        with app.state.sessions.begin() as session:
            data = session.query(factories.Dataset).first() or factories.dataset(session, rows=3)
            for _ in range(number):
                factories.request(session, data, rows=(), client_reference="a reference")
        with browsers.statements(app) as sent:
            page = browser.get("/requests?limit=200")
        counts.append(len([one for one in sent if one.startswith("SELECT")]))
        assert page.status_code == 200
        assert len(listed_in(page.text)) == min(200, number)
    assert counts[0] == counts[1] <= 6
    assert len(page.content) <= 150_000


def test_one_request_shows_what_each_model_did_and_who_still_holds_the_rows(app: FastAPI) -> None:
    with app.state.sessions.begin() as session:
        data = factories.dataset(session, name="faces")
        done, waits = (factories.model(session, data, name=name) for name in ("done", "waits"))
        base = factories.version(session, done)
        asked = factories.request(session, data, rows=[1, 2])
        factories.unlearned(session, done, base, [asked])
        factories.version(session, waits)
        factories.erasure(session, asked, waits, status=ErasureStatus.NEEDS_REVIEW, error="why so")
        asked.status = RequestStatus.NEEDS_REVIEW
        lifecycle.retry(session, asked.id, actor="key:key_me")
    page = text(signed_in(app, "requests:read").get(f"/requests/{asked.id}").text)
    assert "2 records of faces" in page
    assert "version 2, without them" in page
    assert "version 1 still holds them" in page
    assert "why so" in page
    assert "0 of 2" in page
    assert "Tried again by key:key_me" in page


def test_planted_markup_is_shown_as_text(app: FastAPI) -> None:
    one = recorded_request(
        app,
        client_reference=MARKUP,
        reason=MARKUP,
        status=RequestStatus.NEEDS_REVIEW,
        status_reason=MARKUP,
    )
    browser = signed_in(app, name=MARKUP)
    for address in (
        f"/requests/{one}",
        "/requests",
        f"/requests?reference={MARKUP}",
        f"/requests/matching?action=retry&reference={MARKUP}",
    ):
        page = browser.get(address).text
        assert MARKUP in text(page)
        for tag, attributes in browsers.tags(page):
            assert tag != "img", address
            assert tag != "script" or (attributes.get("src") or "").startswith("/static/")
            assert not [name for name in attributes if name.startswith("on") or name == "style"]


def test_nothing_is_shown_to_a_key_that_may_not_read_requests(app: FastAPI) -> None:
    one = recorded_request(app, client_reference="a-reference")
    browser = signed_in(app, "models:read", "requests:write")
    for address in ("/requests", f"/requests/{one}"):
        answer = browser.get(address)
        assert answer.status_code == 403
        assert "a-reference" not in answer.text
        assert "requests:read" in text(answer.text)


@pytest.mark.parametrize("request_id", ["dr_" + "0" * 26, "x", "dr_..%2f"])
def test_an_unknown_request_is_said_to_be_none(app: FastAPI, request_id: str) -> None:
    answer = signed_in(app).get(f"/requests/{request_id}")
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/html") or "%2f" in request_id
