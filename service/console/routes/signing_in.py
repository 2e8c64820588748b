"""Signing in with an API key, and out; the start page."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from anyio import to_thread
from fastapi import Depends, Query, Request, Response

from service.api import auth, deps, limits
from service.console import pages, sessions
from service.ledger.database import db
from service.ledger.registry import console_sessions

#: Pages that a sign-in may lead on to: paths of our own, without a host or parameters.
_OURS = re.compile(r"/[A-Za-z0-9_-][A-Za-z0-9/._-]{0,300}")

router = pages.router()

Visitor = Annotated[sessions.Visitor, Depends(sessions.visitor)]
Leaving = Annotated[sessions.Act, sessions.acting()]
Next = Annotated[str, Query(alias="next", max_length=400)]


@dataclass(frozen=True)
class _Presented:
    """A key as it was presented: whose it is, None if it is not valid, and where to go on to."""

    principal: auth.Principal | None
    onward: str


@router.get("/")
def start(visitor: Visitor) -> Response:
    """Go to the first part of the console that the key may see."""
    return pages.go(pages.home(visitor))


@router.get("/nothing")
def nothing(visitor: Visitor) -> Response:
    """Say that the key may see no part of the console."""
    return pages.render("nothing.html", visitor)


@router.get("/sign-in")
def ask(request: Request, onward: Next = "") -> Response:
    """Ask for a key."""
    return _form(request, onward=onward)


async def _presented(request: Request) -> _Presented:
    form = await sessions.sign_in_form(request)
    limiter: limits.Limiter = request.app.state.sign_ins
    address = request.client.host if request.client else ""
    await to_thread.run_sync(limiter.check, address)  # it may ask Redis
    keys: auth.KeyCache = request.app.state.keys
    principal = await keys.principal(form.text("key"))
    if principal is None:
        await to_thread.run_sync(limiter.take, address)
    return _Presented(principal, form.text("next"))


@router.post("/sign-in")
def begin(
    request: Request,
    presented: Annotated[_Presented, Depends(_presented)],
    session: deps.Session,
    settings: deps.Settings,
) -> Response:
    """Begin a session under a new secret; a session that the browser had ends."""
    if presented.principal is None:
        refusal = "This key is not valid: it is mistyped, expired or revoked."
        return _form(request, onward=presented.onward, refusal=refusal, status=401)
    console_sessions.end(session, sessions.secret_of(request))
    secret = console_sessions.begin(
        session,
        presented.principal.key_id,
        minutes=settings.console_session_minutes,
        now=db.now(),
    )
    session.commit()
    response = pages.go(_ours(presented.onward) or "/")
    sessions.set_session(request, response, secret)
    return response


@router.post("/sign-out")
def leave(request: Request, act: Leaving, session: deps.Session) -> Response:
    """End the session."""
    del act
    console_sessions.end(session, sessions.secret_of(request))
    session.commit()
    response = pages.go("/sign-in")
    sessions.clear_session(request, response)
    return response


def _form(request: Request, *, onward: str, refusal: str = "", status: int = 200) -> Response:
    secret = sessions.visit(request)
    response = pages.render(
        "sign_in.html",
        None,
        status=status,
        token=sessions.visit_token(secret),
        onward=_ours(onward),
        refusal=refusal,
    )
    sessions.set_visit(request, response, secret)
    return response


def _ours(path: str) -> str:
    return path if _OURS.fullmatch(path) else ""
