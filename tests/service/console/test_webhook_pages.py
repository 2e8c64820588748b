"""The screen of webhooks: how far each is, its deliveries, and telling it again."""

from __future__ import annotations

from datetime import timedelta

import pytest
from fastapi import FastAPI
from sqlalchemy import select

from service.ledger.database import db
from service.ledger.database.tables import AuditEvent, Webhook, WebhookDelivery
from service.ledger.webhooks import endpoints
from service.ledger.webhooks.destinations import Rules
from service.ledger.webhooks.sealing import Sealer
from service.settings import Settings
from tests.service.console import browsers, place
from tests.service.console.browsers import Browser, signed_in, text

URL = "https://93.184.215.14/hooks/s3cr3t"


@pytest.fixture
def webhook_id(app: FastAPI, settings: Settings) -> str:
    """A webhook with a delivery that arrived and one that failed."""
    now = db.now()
    place.fill(app)
    with app.state.sessions.begin() as session:
        row, _ = endpoints.create(
            session,
            endpoints.New(URL, description="<b>CRM</b>"),
            rules=Rules.from_settings(settings),
            sealer=Sealer.from_settings(settings),
            actor="cli",
            now=now,
        )
        for seq, error in ((3, None), (4, "answered 500")):
            session.add(
                WebhookDelivery(
                    webhook_id=row.id,
                    seq=seq,
                    event_id=f"{seq}-0123456789abcdef",
                    type="unlearn.version.promoted",
                    at=now + timedelta(seconds=seq),
                    seconds=0.25,
                    answered=204 if error is None else 500,
                    error=error,
                )
            )
        row.failures, row.failing_since = 1, now
        made: str = row.id
    return made


@pytest.fixture
def browser(app: FastAPI, webhook_id: str) -> Browser:
    return signed_in(app, "webhooks:write")


def _row(app: FastAPI, webhook_id: str) -> Webhook:
    with app.state.sessions() as session:
        return endpoints.get(session, webhook_id)


def test_a_webhook_is_shown_with_its_deliveries(browser: Browser, webhook_id: str) -> None:
    listed = browser.get("/webhooks")
    assert f'href="/webhooks/{webhook_id}"' in listed.text
    assert "active fails https://93.184.215.14/hooks/s3cr3t<b>CRM</b> everything" in text(
        listed.text
    )
    shown = browser.get(f"/webhooks/{webhook_id}").text
    assert "Failures in a row 1" in text(shown)
    assert "delivered unlearn.version.promoted 3 204" in text(shown)
    assert "failed unlearn.version.promoted 4 500 0.250 answered 500" in text(shown)
    failed = text(browser.get(f"/webhooks/{webhook_id}?outcome=failed").text)
    assert "answered 500" in failed
    assert "204" not in failed
    assert not [tag for tag, _ in browsers.tags(listed.text + shown) if tag == "b"]
    assert browser.get("/webhooks/wh_" + "0" * 26).status_code == 404


def test_events_are_told_again_from_a_line_or_a_moment(
    app: FastAPI, browser: Browser, webhook_id: str
) -> None:
    where = f"/webhooks/{webhook_id}"
    answer = browser.submit(f"{where}/replay", {"after": "1", "since": ""}, page=where)
    assert answer.headers["location"] == f"{where}?done=replay"
    row = _row(app, webhook_id)
    assert (row.seq, row.failures, row.failing_since) == (1, 0, None)
    assert "It continues there" in text(browser.get(f"{where}?done=replay").text)
    with app.state.sessions() as session:
        last = endpoints.head(session)
    moment = {"since": (db.now() + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M")}
    assert browser.submit(f"{where}/replay", moment, page=where).status_code == 303
    assert _row(app, webhook_id).seq == last  # nothing is as late: all is skipped
    assert browser.submit(f"{where}/replay", {"since": "2020-01-01T00:00"}, page=where).is_redirect
    assert _row(app, webhook_id).seq == 0


@pytest.mark.parametrize(
    "fields",
    [{}, {"after": "1", "since": "2020-01-01T00:00"}, {"after": "x"}, {"since": "soon"},
     {"after": "9" * 18}],
)  # fmt: skip
def test_a_senseless_place_changes_nothing(
    app: FastAPI, browser: Browser, webhook_id: str, fields: dict[str, str]
) -> None:
    where, before = f"/webhooks/{webhook_id}", _row(app, webhook_id).seq
    assert browser.submit(f"{where}/replay", fields, page=where).status_code == 422
    assert _row(app, webhook_id).seq == before


def test_a_webhook_is_tested_disabled_and_enabled(
    app: FastAPI, browser: Browser, webhook_id: str
) -> None:
    where = f"/webhooks/{webhook_id}"
    for action in ("test", "disable", "enable"):
        answer = browser.submit(f"{where}/{action}", page=where)
        assert answer.headers["location"] == f"{where}?done={action}"
    with app.state.sessions() as session:
        said = session.scalars(
            select(AuditEvent.action)
            .where(AuditEvent.subject == f"webhook:{webhook_id}")
            .order_by(AuditEvent.seq)
        )
        assert [str(one).partition(":")[2] for one in said] == [
            "created", "tested", "disabled", "enabled",
        ]  # fmt: skip
    browser.submit(f"{where}/disable", page=where)
    assert "disabled in the console" in text(browser.get(where).text)
    assert browser.submit(f"{where}/test", page=where).status_code == 409


def test_nothing_is_done_without_the_scope_or_the_token(
    app: FastAPI, browser: Browser, webhook_id: str
) -> None:
    where, before = f"/webhooks/{webhook_id}", _row(app, webhook_id).seq
    other = signed_in(app, "models:read")
    for action in ("replay", "test", "enable", "disable"):
        refused = other.submit(f"{where}/{action}", {"after": "0"}, page="/models")
        assert refused.status_code == 403
        assert "s3cr3t" not in refused.text
        assert browser.post(f"{where}/{action}", data={"after": "0"}).status_code == 403
    assert _row(app, webhook_id).seq == before
    assert other.get(where).status_code == 403
