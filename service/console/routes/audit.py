"""The audit chain: its signed head, its lines, and two checks."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Query, Request, Response

from service.api import deps, pagination
from service.api.routes.audit import SUBJECT_PATTERN
from service.console import pages, sessions
from service.console.views import audit as views
from service.errors import Unprocessable
from service.ledger.database import db

PATH = "/audit"
_HASH = re.compile(r"[0-9a-f]{64}")
_SEQ = re.compile(r"[0-9]{1,18}")

router = pages.router()

Auditing = Annotated[sessions.Visitor, sessions.looking("audit:read")]
Checking = Annotated[sessions.Act, sessions.acting("audit:read")]
Subject = Annotated[str, Query(max_length=120)]
Action = Annotated[str, Query(max_length=64)]


@router.get(PATH)
def show(
    request: Request,
    visitor: Auditing,
    session: deps.Reader,
    paging: pagination.Asked,
    subject: Subject = "",
    action: Action = "",
) -> Response:
    """Show the head and a page of lines."""
    about = subject.strip()
    if about and not re.fullmatch(SUBJECT_PATTERN, about):
        raise Unprocessable("name what the lines are about as kind:name, such as model:faces")
    return _page(request, visitor, session, paging, subject=about, action=action)


@router.post("/audit/check")
def check(request: Request, act: Checking, session: deps.Reader) -> Response:
    """Recompute the newest lines."""
    first = pagination.Paging(pagination.DEFAULT_PAGE, None)
    return _page(request, act.visitor, session, first, checked=True)


@router.post("/audit/compare")
def compare(request: Request, act: Checking, session: deps.Reader) -> Response:
    """Compare a head that was kept elsewhere."""
    seq, digest = act.form.text("seq"), act.form.text("hash").lower()
    if not _SEQ.fullmatch(seq) or not _HASH.fullmatch(digest):
        raise Unprocessable("give the head's seq, a number, and its hash, 64 hexadecimal digits")
    first = pagination.Paging(pagination.DEFAULT_PAGE, None)
    kept = views.compare(session, int(seq), digest)
    return _page(request, act.visitor, session, first, compared=kept)


def _page(
    request: Request,
    visitor: sessions.Visitor,
    session: deps.Reader,
    paging: pagination.Paging,
    *,
    subject: str = "",
    action: str = "",
    checked: bool = False,
    compared: views.Check | None = None,
) -> Response:
    shown = views.page(
        session, request.app.state.signer, paging, subject=subject, action=action, now=db.now()
    )
    result = views.check(session, shown["head"]["seq"]) if checked else compared
    return pages.render("audit.html", visitor, path=PATH, result=result, **shown)
