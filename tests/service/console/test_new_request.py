"""A new request: a preview first, then recorded once, and nothing of the person in a page."""

from __future__ import annotations

import re

import pytest
from fastapi import FastAPI
from sqlalchemy import select

from service.ledger.database.tables import DeletionRequest
from service.settings import Settings
from tests import factories
from tests.factories import DIGESTER
from tests.service.console import browsers
from tests.service.console.browsers import Browser, signed_in, text

SUBJECT = "anna-of-the-test"
FORM = {"kind": "subject_id", "subject_id": SUBJECT, "dataset": "", "client_reference": "t-1"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    changes = {"subject_key": DIGESTER.keys[0].decode(), "previews_per_minute": 4}
    return Settings(_env_file=None, **{**settings.model_dump(exclude={"database"}), **changes})


@pytest.fixture
def browser(app: FastAPI) -> Browser:
    with app.state.sessions.begin() as session:
        data = factories.dataset(
            session, name="faces", rows=4, subjects=[SUBJECT, SUBJECT, "b", None]
        )
        model = factories.model(session, data, name="who", policy={})
        factories.version(session, model)
    return signed_in(app)


def _requests(app: FastAPI) -> list[DeletionRequest]:
    with app.state.sessions() as session:
        return list(session.scalars(select(DeletionRequest)))


def _sealed(page: str) -> str:
    return re.findall(r'name="sealed" value="([^"]+)"', page)[0]


def test_a_preview_counts_and_records_nothing(app: FastAPI, browser: Browser) -> None:
    answer = browser.submit("/requests/new", FORM, page="/requests/new")
    assert answer.status_code == 200
    shown = text(answer.text)
    assert "2 records would be forgotten" in shown
    assert "who version 1 2" in shown
    assert "2 records to forget: 2 of training" in shown
    assert _requests(app) == []


def test_nothing_that_names_the_person_stands_in_a_page_or_an_address(
    app: FastAPI, browser: Browser
) -> None:
    for fields in (FORM, {"kind": "record_ids", "record_ids": "r0\nr1\n", "dataset": "faces"}):
        preview = browser.submit("/requests/new", fields, page="/requests/new")
        sent = {"sealed": _sealed(preview.text)}
        answer = browser.submit("/requests/new/confirm", sent, page="/requests/new")
        page = browser.get(answer.headers["location"])
        for shown in (preview.text, answer.headers["location"], page.text):
            assert SUBJECT not in shown
            assert not re.search(r"\br[01]\b", text(shown))
    assert len(_requests(app)) == 2


def test_a_confirmed_request_is_recorded_once_however_often_it_is_sent(
    app: FastAPI, browser: Browser
) -> None:
    preview = browser.submit("/requests/new", FORM, page="/requests/new")
    sent = {"sealed": _sealed(preview.text)}
    first, again = (
        browser.submit("/requests/new/confirm", sent, page="/requests/new") for _ in range(2)
    )
    [row] = _requests(app)
    assert (row.matched, row.client_reference, row.kind) == (2, "t-1", "subject")
    assert first.headers["location"] == f"/requests/{row.id}?done=new"
    assert again.headers["location"] == f"/requests/{row.id}?done=again"


def test_a_preview_can_be_changed_without_typing_again(browser: Browser) -> None:
    preview = browser.submit("/requests/new", FORM, page="/requests/new")
    sent = {"sealed": _sealed(preview.text)}
    page = browser.submit("/requests/new", sent, page="/requests/new").text
    fields = {
        one.get("name"): one.get("value") for tag, one in browsers.tags(page) if tag == "input"
    }
    assert (fields["subject_id"], fields["client_reference"]) == (SUBJECT, "t-1")


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"kind": "subject_id", "subject_id": ""}, 422, "Subject id:"),
        ({"kind": "record_ids", "record_ids": " \n ", "dataset": "faces"}, 422, "Record ids:"),
        ({"kind": "record_ids", "record_ids": "r0"}, 422, "name the dataset"),
        ({"kind": "label", "label": "two", "dataset": "faces"}, 422, "class_names"),
        ({"kind": "label", "label": " ", "dataset": "faces"}, 422, "Class:"),
        ({"kind": "label", "label": "99999999999", "dataset": "faces"}, 422, "whole number"),
        ({"kind": "label", "label": "9999999999", "dataset": "faces"}, 422, "Class:"),
        ({"kind": "subject_id", "subject_id": "x", "dataset": "none"}, 404, "no dataset"),
        ({"kind": "subject_id", "subject_id": "x", "reason": "y" * 2001}, 422, "Reason:"),
        ({}, 422, "exactly one"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_lost(
    app: FastAPI, browser: Browser, fields: dict[str, str], status: int, words: str
) -> None:
    given = {"client_reference": "typed before", **fields}
    answer = browser.submit("/requests/new", given, page="/requests/new")
    assert answer.status_code == status
    assert words in text(answer.text)
    assert 'value="typed before"' in answer.text
    assert _requests(app) == []


def test_a_preview_opens_in_its_own_session_alone(app: FastAPI, browser: Browser) -> None:
    sealed = _sealed(browser.submit("/requests/new", FORM, page="/requests/new").text)
    other = signed_in(app)
    for text_of_form in (sealed, sealed[:-8] + "AAAAAAA=", "", "x", "ü"):
        sent = {"sealed": text_of_form}
        answer = other.submit("/requests/new/confirm", sent, page="/requests/new")
        assert answer.status_code == 422
    assert _requests(app) == []


def test_previews_are_limited_as_those_of_the_api_are(browser: Browser) -> None:
    statuses = [
        browser.submit("/requests/new", FORM, page="/requests/new").status_code for _ in range(5)
    ]
    assert statuses == [200] * 4 + [429]


def test_a_list_too_long_for_a_form_is_refused_with_what_to_do(browser: Browser) -> None:
    many = "\n".join(factories.ids.new("r") * 3 for _ in range(4000))
    fields = {"kind": "record_ids", "record_ids": many, "dataset": "faces"}
    answer = browser.submit("/requests/new", fields, page="/requests/new")
    assert answer.status_code == 413
    assert "split it into several" in text(answer.text)


def test_a_key_that_only_asks_sees_no_request(app: FastAPI, browser: Browser) -> None:
    writer = signed_in(app, "requests:write")
    page = writer.get("/requests/new").text
    assert "faces" not in page  # the names of datasets need models:read
    preview = writer.submit("/requests/new", FORM, page="/requests/new")
    sent = {"sealed": _sealed(preview.text)}
    answer = writer.submit("/requests/new/confirm", sent, page="/requests/new")
    [row] = _requests(app)
    assert answer.headers["location"] == f"/requests/new?recorded={row.id}"
    assert row.id in writer.get(answer.headers["location"]).text
    assert signed_in(app, "requests:read").get("/requests/new").status_code == 403
