"""A new deletion request: a form, a preview with counts, and its confirmation."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Annotated

from fastapi import Query, Request, Response

from service.api import deps, limits
from service.api.recorder import Recorder
from service.api.routes import deletion_requests
from service.console import pages, sealed, sessions
from service.console.views import new_request as views
from service.console.views.requests import suggestions
from service.errors import ServiceError
from service.ledger.database import db
from service.ledger.requests import previews

PATH = "/requests/new"
_PURPOSE = "new request"

router = pages.router()

Asking = Annotated[sessions.Visitor, sessions.looking("requests:write")]
Sending = Annotated[sessions.Act, sessions.acting("requests:write")]
Recorded = Annotated[str, Query(pattern=r"^(dr_[0-9a-z]{26})?$")]


@router.get(PATH)
def ask(visitor: Asking, session: deps.Reader, recorded: Recorded = "") -> Response:
    """Show the empty form."""
    return _form(session, visitor, views.values(), recorded=recorded)


@router.post(PATH)
def preview(
    request: Request,
    act: Sending,
    session: deps.Session,
    settings: deps.Settings,
    digester: deps.Digests,
) -> Response:
    """Show what the request would match; or the form again, with what was wrong."""
    visitor = act.visitor
    if act.form.text("sealed"):  # back from the preview
        known = sealed.unseal(visitor.seal, _PURPOSE, act.form.text("sealed"))
        return _form(session, visitor, known["values"])
    values = views.values(act.form)
    try:
        body = views.body(values)
        deletion_requests.check_size(body, settings)
        kept = {"values": values, "key": f"console-{secrets.token_urlsafe(16)}"}
        handed_on = sealed.seal(visitor.seal, _PURPOSE, kept)
        limiter: limits.Limiter = request.app.state.previews
        limiter.take(visitor.principal.key_id)
        seen = previews.preview(
            session,
            body.ask(deletion_requests.usual(settings)),
            principal=visitor.principal.key_id,
            digester=digester,
            now=db.now(),
        )
    except ServiceError as refusal:
        session.rollback()
        return _form(session, visitor, values, refusal=refusal)
    session.commit()
    return pages.render(
        "preview.html",
        visitor,
        path=PATH,
        seen=seen,
        sealed=handed_on,
        reference=body.client_reference,
    )


@router.post("/requests/new/confirm")
async def confirm(
    request: Request, act: Sending, settings: deps.Settings, digester: deps.Digests
) -> Response:
    """Record the request that was previewed, once, however often the form is sent."""
    visitor = act.visitor
    known = sealed.unseal(visitor.seal, _PURPOSE, act.form.text("sealed"))
    asked = deletion_requests.submission(
        views.body(known["values"]), known["key"], visitor.principal, digester, settings
    )
    recorder: Recorder = request.app.state.recorder
    [outcome] = await recorder.record([asked])
    if isinstance(outcome, ServiceError):
        raise outcome
    request_id = outcome.answer["id"]
    if visitor.may("requests:read"):
        return pages.go(f"/requests/{request_id}", done="again" if outcome.repeated else "new")
    return pages.go(PATH, recorded=request_id)


def _form(
    session: deps.Session,
    visitor: sessions.Visitor,
    values: Mapping[str, str],
    *,
    refusal: ServiceError | None = None,
    recorded: str = "",
) -> Response:
    return pages.render(
        "new_request.html",
        visitor,
        path=PATH,
        status=200 if refusal is None else refusal.status,
        values=values,
        kinds=views.KINDS,
        refusal=refusal,
        recorded=recorded,
        **suggestions(session, visitor),
    )
