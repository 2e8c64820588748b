"""Who looks at a page: the session in the cookie, its key's scopes, and its forms' tokens.

A session's secret lies in a cookie that scripts cannot read and other sites cannot cause to be
sent. From it the token of the forms is derived, so that a token belongs to one session; a page's
source shows the token, and the secret cannot be computed from it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

from fastapi import Depends, Request, Response

from service.api import auth
from service.console import forms
from service.console.forms import Form
from service.errors import Forbidden, Unauthorized
from service.ledger.database import db
from service.ledger.registry import console_sessions
from service.ledger.registry.keys import Scope
from service.settings import Settings

#: Name of the cookie of a session, and of that of a browser that has not signed in.
SESSION = "unlearn-session"
VISIT = "unlearn-visit"
#: Attribute of a request that holds its visitor.
FOUND = "unlearn.visitor"
#: Field of every form that holds its token.
TOKEN = "token"  # noqa: S105  # the field's name

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class SignInNeeded(Unauthorized):
    """There is no session, or it has ended."""

    code = "sign-in-needed"


class ForeignForm(Forbidden):
    """A form without this session's token: another site may have sent it."""

    code = "foreign-form"


@dataclass(frozen=True)
class Visitor:
    """A person who has signed in with a key."""

    principal: auth.Principal
    key_name: str
    expires_at: datetime
    #: Stands in every form of this session.
    token: str = field(repr=False)
    #: Seals what a page hands on to the next one (``sealed``).
    seal: bytes = field(repr=False)

    @property
    def actor(self) -> str:
        """Return the name of the key in the audit chain."""
        return self.principal.actor

    def may(self, scope: str) -> bool:
        """Return whether the key has this scope."""
        return self.principal.may(Scope(scope))


@dataclass(frozen=True)
class Act:
    """A form that its own page sent, and the visitor who sent it."""

    visitor: Visitor
    form: Form


def visitor(request: Request) -> Visitor:
    """Return who has signed in; raise ``SignInNeeded`` without a valid session."""
    secret = request.cookies.get(_cookie(request, SESSION), "")
    found = None
    if secret:
        with request.app.state.sessions() as session:
            now = db.now()
            found = console_sessions.find(db.read_only(session), secret, now=now)
    if found is None:
        raise SignInNeeded("sign in first; your session may have ended, and nothing was changed")
    row, key = found
    someone = Visitor(
        principal=auth.Principal(key.id, frozenset(key.scopes)),
        key_name=key.name,
        expires_at=row.expires_at,
        token=_derived(secret, "forms").hex(),
        seal=_derived(secret, "seal"),
    )
    request.scope[FOUND] = someone
    return someone


def looking(*scopes: str) -> Any:
    """Return a dependency: a visitor whose key has all these scopes."""
    return Depends(_checker(*scopes))


def acting(*scopes: str) -> Any:
    """Return a dependency: a form of a visitor whose key has all these scopes (``Act``)."""
    # A default, because an annotation could not name what is computed here.
    checked = Depends(_checker(*scopes))

    async def act(request: Request, someone: Visitor = checked) -> Act:
        form = await forms.read(request)
        _check_form(request, form, someone.token)
        return Act(someone, form)

    return Depends(act)


def _checker(*scopes: str) -> Any:
    wanted = [Scope(scope) for scope in scopes]

    def check(request: Request, someone: Annotated[Visitor, Depends(visitor)]) -> Visitor:
        for scope in wanted:
            if not someone.principal.may(scope):
                raise auth.lacks(scope)
        request.app.state.limiter.take(someone.principal.key_id)
        return someone

    return check


def require(someone: Visitor, scope: str) -> None:
    """Raise ``Forbidden`` for a visitor whose key lacks the scope."""
    if not someone.may(scope):
        raise auth.lacks(Scope(scope))


# --- before anybody has signed in


def visit(request: Request) -> str:
    """Return the secret of a browser that has not signed in; a new one if it has none."""
    return request.cookies.get(_cookie(request, VISIT)) or secrets.token_urlsafe(32)


def visit_token(secret: str) -> str:
    """Return the token of the form to sign in."""
    return _derived(secret, "sign in").hex()


async def sign_in_form(request: Request) -> Form:
    """Return the form to sign in, if the page of this browser sent it."""
    form = await forms.read(request)
    known = request.cookies.get(_cookie(request, VISIT), "")
    _check_form(request, form, visit_token(known) if known else "")
    return form


# --- cookies


def set_session(request: Request, response: Response, secret: str) -> None:
    """Hand a new session's secret to the browser, in place of any that it had."""
    settings: Settings = request.app.state.settings
    seconds = int(settings.console_session_minutes * 60)
    _set(request, response, SESSION, secret, max_age=seconds)
    _set(request, response, VISIT, "", max_age=0)


def set_visit(request: Request, response: Response, secret: str) -> None:
    """Hand the secret of a browser that has not signed in to it."""
    _set(request, response, VISIT, secret, max_age=None)


def clear_session(request: Request, response: Response) -> None:
    """Have the browser forget its session."""
    _set(request, response, SESSION, "", max_age=0)


def secret_of(request: Request) -> str:
    """Return the secret in the session's cookie, valid or not; empty: there is none."""
    return request.cookies.get(_cookie(request, SESSION), "")


def _set(
    request: Request, response: Response, name: str, value: str, *, max_age: int | None
) -> None:
    response.set_cookie(
        _cookie(request, name),
        value,
        max_age=max_age,
        path="/",
        secure=_is_secure(request),
        httponly=True,
        samesite="strict",
    )


def _cookie(request: Request, name: str) -> str:
    # With this prefix a browser takes the cookie from this host alone, over TLS alone.
    return f"__Host-{name}" if _is_secure(request) else name


def _is_secure(request: Request) -> bool:
    """Return False only for plain HTTP to this machine itself, as in development."""
    forwarded = request.headers.get("x-forwarded-proto", "").lower()
    if request.url.scheme == "https" or forwarded.startswith("https"):
        return True
    return request.url.hostname not in _LOOPBACK


def _check_form(request: Request, form: Form, token: str) -> None:
    sent = form.raw(TOKEN)
    # Browsers say where a form comes from; the Origin is "null", because pages send no referrer.
    same_place = request.headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")
    # Compared as bytes: text outside ASCII would be an error instead of a difference.
    if not token or not same_place or not hmac.compare_digest(sent.encode(), token.encode()):
        raise ForeignForm(
            "this form is not one of this session, so nothing was done; open its page again and "
            "send it from there"
        )


def _derived(secret: str, purpose: str) -> bytes:
    return hmac.new(secret.encode(), purpose.encode(), hashlib.sha256).digest()
