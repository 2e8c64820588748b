"""A number of requests that was confirmed is of those that were counted, and of no others."""

from __future__ import annotations

import re

from sqlalchemy.orm import Session

from service.ledger.audit import canonical, chain
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import DeletionRequest
from service.ledger.requests import bulk
from service.settings import Settings
from tests import factories
from tests.factories import NOW
from tests.service.api import callers
from tests.service.console.browsers import signed_in, text

PATH = "/requests/matching"
REVIEW = RequestStatus.NEEDS_REVIEW


def _put_aside(session: Session) -> str:
    data = session.query(factories.Dataset).first() or factories.dataset(session, name="faces")
    made: str = factories.request(session, data, status=REVIEW, rows=()).id
    subject = f"deletion_request:{made}"
    chain.append(session, actor="w", action=bulk.CAME[REVIEW], subject=subject, data={})
    return made


def test_a_form_decides_about_no_others_than_its_page_counted(settings: Settings) -> None:
    with callers.application(settings) as app:
        with app.state.sessions.begin() as session:
            first = _put_aside(session)
        browser = signed_in(app, "requests:read", "requests:write")
        page = browser.get(f"{PATH}?action=retry").text
        [form] = re.findall(rf'<form method="post" action="{PATH}">(.*?)</form>', page, re.S)
        fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', form))
        with app.state.sessions.begin() as session:
            session.get_one(DeletionRequest, first).status = RequestStatus.PROCESSING
            unseen = _put_aside(session)
        answer = browser.post(PATH, data=fields)
        assert answer.status_code == 409
        assert "others than those that were counted" in text(answer.text)
        with app.state.sessions() as session:
            assert session.get_one(DeletionRequest, unseen).status == REVIEW
            assert session.query(bulk.BulkDecision).count() == 0


def test_a_form_that_does_not_say_when_it_counted_is_refused(settings: Settings) -> None:
    with callers.application(settings) as app:
        browser = signed_in(app, "requests:read", "requests:write")
        form = {"action": "retry", "matching": "0", "now": canonical.moment(NOW)}
        for said in ({}, {"counted_up_to": "-1"}, {"counted_up_to": "9" * 16}):
            assert browser.submit(PATH, form | said).status_code == 422
        assert browser.submit(PATH, form | {"counted_up_to": "0"}).status_code == 303
