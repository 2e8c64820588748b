"""Webhooks: how far each is, its deliveries, and telling it again. They are added over HTTP."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Path, Query, Response

from service.api import deps, pagination
from service.console import pages, sessions
from service.console.forms import Form
from service.console.views import webhooks as views
from service.errors import Unprocessable
from service.ledger.database import db
from service.ledger.webhooks import endpoints

PATH = "/webhooks"
_LINE = re.compile(r"[0-9]{1,18}")

router = pages.router()

Watching = Annotated[sessions.Visitor, sessions.looking("webhooks:write")]
Acting = Annotated[sessions.Act, sessions.acting("webhooks:write")]
WebhookId = Annotated[str, Path(pattern=r"^wh_[0-9a-z]{26}$")]
Done = Annotated[str, Query(max_length=20)]
Outcome = Annotated[str, Query(max_length=20)]


@router.get(PATH)
def listing(visitor: Watching, session: deps.Reader, paging: pagination.Asked) -> Response:
    """List the webhooks."""
    return pages.render("webhooks.html", visitor, path=PATH, **views.listing(session, paging))


@router.get("/webhooks/{webhook_id}")
def show(
    visitor: Watching,
    session: deps.Reader,
    webhook_id: WebhookId,
    paging: pagination.Asked,
    done: Done = "",
    outcome: Outcome = "",
) -> Response:
    """Show a webhook and its deliveries."""
    shown = views.one(session, webhook_id, paging, failed=outcome == "failed")
    return pages.render("webhook.html", visitor, path=PATH, done=done, **shown)


@router.post("/webhooks/{webhook_id}/replay")
def replay(act: Acting, session: deps.Session, wake: deps.Wake, webhook_id: WebhookId) -> Response:
    """Continue at another line of the audit chain, or at a moment."""
    after, since = _place(act.form)
    actor, now = act.visitor.actor, db.now()
    endpoints.replay(session, webhook_id, after=after, since=since, actor=actor, now=now)
    return _done(session, wake, webhook_id, "replay")


@router.post("/webhooks/{webhook_id}/test")
def test(act: Acting, session: deps.Session, wake: deps.Wake, webhook_id: WebhookId) -> Response:
    """Have the webhook be told of this test."""
    endpoints.test(session, webhook_id, actor=act.visitor.actor)
    return _done(session, wake, webhook_id, "test")


@router.post("/webhooks/{webhook_id}/enable")
def enable(act: Acting, session: deps.Session, wake: deps.Wake, webhook_id: WebhookId) -> Response:
    """Have a disabled webhook be told of everything since."""
    endpoints.enable(session, webhook_id, actor=act.visitor.actor)
    return _done(session, wake, webhook_id, "enable")


@router.post("/webhooks/{webhook_id}/disable")
def disable(act: Acting, session: deps.Session, wake: deps.Wake, webhook_id: WebhookId) -> Response:
    """Send a webhook nothing until it is enabled."""
    endpoints.disable(
        session,
        webhook_id,
        because="disabled in the console",
        actor=act.visitor.actor,
        now=db.now(),
    )
    return _done(session, wake, webhook_id, "disable")


def _done(session: deps.Session, wake: deps.Wake, webhook_id: str, what: str) -> Response:
    session.commit()
    wake.events()
    return pages.go(f"{PATH}/{webhook_id}", done=what)


def _place(form: Form) -> tuple[int | None, datetime | None]:
    """Return the line after which to continue, or the moment from which on; one of the two."""
    after, since = form.text("after"), form.text("since")
    if bool(after) == bool(since):
        raise Unprocessable("give either the line after which to continue, or a moment")
    if after and not _LINE.fullmatch(after):
        raise Unprocessable("a line of the audit chain is named by its number")
    if not since:
        return int(after), None
    try:
        moment = datetime.fromisoformat(since)
    except ValueError:
        raise Unprocessable("give the moment as 2026-05-25T14:30, in UTC") from None
    return None, moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
