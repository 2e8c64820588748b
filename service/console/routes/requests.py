"""Deletion requests: the list by days left, one request, and the decisions about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, TypeVar

from fastapi import Path, Query, Request, Response
from sqlalchemy.orm import Session

from service import wake
from service.api import deps, negotiation, pagination, problems
from service.console import documents, pages, sessions
from service.console.views import requests as views
from service.errors import NotFound, ServiceError, Unprocessable
from service.ledger.audit import canonical
from service.ledger.database import db
from service.ledger.requests import deadlines, legal_holds, lifecycle, lookup, receipts
from service.ledger.requests.deadlines import ExtensionReason
from service.ledger.requests.legal_holds import HoldReason
from service.ledger.requests.lifecycle import DenialReason

Code = TypeVar("Code", DenialReason, ExtensionReason, HoldReason)

PATH = "/requests"
LONGEST_REASON = 2_000
#: Requests that one form may act on: as many as a page lists.
MOST_AT_ONCE = pagination.MAX_PAGE

router = pages.router()

Reading = Annotated[sessions.Visitor, sessions.looking("requests:read")]
Deciding = Annotated[sessions.Act, sessions.acting("requests:read")]
RequestId = Annotated[str, Path(pattern=r"^dr_[0-9a-z]{26}$")]
Action = Annotated[str, Path(pattern=r"^[a-z]{1,10}$")]
Word = Annotated[str, Query(max_length=64)]
Reference = Annotated[str, Query(max_length=255)]


@router.get(PATH)
def listing(
    visitor: Reading,
    session: deps.Reader,
    paging: pagination.Asked,
    state: Word = "open",
    dataset: Word = "",
    model: Word = "",
    due: Word = "",
    reference: Reference = "",
) -> Response:
    """Show a page of requests."""
    asked = views.Asked(state, dataset.strip(), model.strip(), due, reference.strip())
    shown = views.listing(session, visitor, asked, paging, now=db.now())
    return pages.render("requests.html", visitor, path=PATH, **shown)


@router.get("/requests/{request_id}")
def show(
    visitor: Reading, session: deps.Reader, request_id: RequestId, done: Word = ""
) -> Response:
    """Show one request."""
    shown = views.one(session, visitor, request_id, now=db.now())
    return pages.render("request.html", visitor, path=PATH, done=done, **shown)


@router.get("/requests/{request_id}/receipt")
def show_receipt(
    _visitor: Reading, session: deps.Reader, signer: deps.Signer, request_id: RequestId
) -> Response:
    """Show the receipt of a request as a page to print or save, for the person."""
    row = lookup.get(session, request_id)
    made = receipts.receipt(session, row, signer=signer, now=db.now())
    return negotiation.show(documents.receipt(canonical.encode(made)))


@router.post("/requests/{request_id}/{action}")
def act(
    act: Deciding, session: deps.Session, wake: deps.Wake, request_id: RequestId, action: Action
) -> Response:
    """Approve, deny, retry, cancel or extend one request, or place or release a legal hold."""
    _apply(session, wake, act, action, request_id)
    return pages.go(f"{PATH}/{request_id}", done=action)


@router.post("/requests/together")
def act_together(request: Request, act: Deciding, wake: deps.Wake) -> Response:
    """Approve, deny or retry the selected requests, each in a transaction of its own."""
    action = act.form.text("action")
    if action not in ("approve", "deny", "retry"):
        raise NotFound("there is no such action")
    sessions.require(act.visitor, views.ACTIONS[action][1])
    chosen = list(dict.fromkeys(act.form.all("request")))
    if not chosen or len(chosen) > MOST_AT_ONCE:
        raise Unprocessable(f"select 1 to {MOST_AT_ONCE} requests, then choose what to do")
    results: list[tuple[str, str | None]] = []
    for request_id in chosen:
        with request.app.state.sessions() as session:
            results.append((request_id, _refusal(session, wake, act, action, request_id)))
    return pages.render(
        "together.html",
        act.visitor,
        path=PATH,
        action=action,
        **views.outcomes(results),
    )


def _refusal(
    session: Session, wake: wake.Wake, act: sessions.Act, action: str, request_id: str
) -> str | None:
    try:
        _apply(session, wake, act, action, request_id)
    except ServiceError as error:
        return error.detail
    except Exception as error:  # the others are still to be done
        return problems.of(error).detail
    return None


def _apply(
    session: Session, wake: wake.Wake, act: sessions.Act, action: str, request_id: str
) -> None:
    known = views.ACTIONS.get(action)
    if known is None:
        raise NotFound("there is no such action")
    sessions.require(act.visitor, known[1])
    _DO[action](session, act, request_id)
    session.commit()
    if action in ("approve", "retry", "release"):
        wake.deletions()


def _approve(session: Session, act: sessions.Act, request_id: str) -> None:
    lifecycle.approve(session, request_id, actor=act.visitor.actor, now=db.now())


def _deny(session: Session, act: sessions.Act, request_id: str) -> None:
    # The form for several requests has no code.
    chosen = code(act, DenialReason) if act.form.text("code") else DenialReason.OTHER
    because = reason(act) or None
    lifecycle.deny(session, request_id, because=because, code=chosen, actor=act.visitor.actor)


def _retry(session: Session, act: sessions.Act, request_id: str) -> None:
    lifecycle.retry(session, request_id, actor=act.visitor.actor)


def _cancel(session: Session, act: sessions.Act, request_id: str) -> None:
    lifecycle.cancel(session, request_id, actor=act.visitor.actor)


def _extend(session: Session, act: sessions.Act, request_id: str) -> None:
    periods = act.form.text("periods")
    if periods not in ("1", "2"):
        raise Unprocessable("choose by how many periods it is extended")
    deadlines.extend(
        session,
        request_id,
        periods=int(periods),
        because=code(act, ExtensionReason),
        reason=_given_reason(act),
        actor=act.visitor.actor,
        now=db.now(),
    )


def _hold(session: Session, act: sessions.Act, request_id: str) -> None:
    legal_holds.place(
        session,
        request_id,
        code=code(act, HoldReason),
        reason=_given_reason(act),
        actor=act.visitor.actor,
        now=db.now(),
    )


def _release(session: Session, act: sessions.Act, request_id: str) -> None:
    why = _given_reason(act)
    legal_holds.release(session, request_id, reason=why, actor=act.visitor.actor, now=db.now())


def code(act: sessions.Act, codes: type[Code]) -> Code:
    """Return the reason that was chosen from a list."""
    try:
        return codes(act.form.text("code"))
    except ValueError:
        raise Unprocessable("choose one of the reasons") from None


def reason(act: sessions.Act) -> str:
    """Return the reason that was typed; empty: none."""
    typed = act.form.text("reason")
    if len(typed) > LONGEST_REASON:
        raise Unprocessable(f"a reason has at most {LONGEST_REASON} characters")
    return typed


def _given_reason(act: sessions.Act) -> str:
    typed = reason(act)
    if not typed:
        raise Unprocessable("say why, in your own words; nothing was changed")
    return typed


_DO: Mapping[str, Callable[[Session, sessions.Act, str], None]] = {
    "approve": _approve,
    "deny": _deny,
    "retry": _retry,
    "cancel": _cancel,
    "extend": _extend,
    "hold": _hold,
    "release": _release,
}
