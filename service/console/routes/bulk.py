"""One decision about every request that fits the list's filter: count, confirm, go on, look."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Request, Response

from service.api import deps
from service.console import pages, sessions
from service.console.routes import requests
from service.console.views import bulk as views
from service.console.views.requests import Asked
from service.errors import NotFound, Unprocessable
from service.ledger.database import db
from service.ledger.requests import bulk
from service.ledger.requests.lifecycle import DenialReason

router = pages.router()

DecisionId = Annotated[str, Path(pattern=r"^bd_[0-9a-z]{26}$")]
Age = Annotated[str, Query(max_length=4)]


@router.get("/requests/matching")
def preview(
    visitor: requests.Reading,
    session: deps.Reader,
    action: requests.Word,
    dataset: requests.Word = "",
    model: requests.Word = "",
    due: requests.Word = "",
    reference: requests.Reference = "",
    age: Age = "",
) -> Response:
    """Show how many requests fit, and ask for a confirmation that names the number."""
    asked = Asked("", dataset.strip(), model.strip(), due, reference.strip())
    chosen = _action(visitor, action)
    shown = views.preview(session, chosen, asked, age, now=db.now())
    return pages.render("matching.html", visitor, path=requests.PATH, **shown)


@router.post("/requests/matching")
def confirm(act: requests.Deciding, session: deps.Session) -> Response:
    """Record the decision about as many requests as the button said."""
    form = act.form
    chosen = _action(act.visitor, form.text("action"))
    number, up_to = form.text("matching"), form.text("counted_up_to")
    if not (_is_number(number, digits=9) and _is_number(up_to, digits=15)):
        raise Unprocessable("this form names no number of requests; begin again with the list")
    words = ("dataset", "model", "due", "reference")
    asked = Asked("", *(form.text(name) for name in words))
    deny = chosen == bulk.Action.DENY
    row = bulk.begin(
        session,
        chosen,
        views.chosen(asked, form.text("age"), now=views.moment(form.text("now"))),
        matching=int(number),
        up_to=int(up_to),
        reason=requests.reason(act) or None,
        code=requests.code(act, DenialReason) if deny else DenialReason.OTHER,
        actor=act.visitor.actor,
        now=db.now(),
    )
    place = f"/requests/decisions/{row.id}"
    session.commit()
    return pages.go(place)


@router.get("/requests/decisions/{decision_id}")
def show(
    visitor: requests.Reading,
    session: deps.Reader,
    decision_id: DecisionId,
    paused: requests.Word = "",
) -> Response:
    """Show how far a decision has come."""
    row = bulk.get(session, decision_id)
    mine = row.actor == visitor.actor and visitor.may(bulk.SCOPES[bulk.Action(row.action)])
    shown = views.progress(row, goes_on=mine and row.ended_at is None, paused=bool(paused))
    return pages.render("decision.html", visitor, path=requests.PATH, **shown)


@router.post("/requests/decisions/{decision_id}/continue")
def go_on(
    request: Request, act: requests.Deciding, wake: deps.Wake, decision_id: DecisionId
) -> Response:
    """Decide about the next requests."""
    with request.app.state.sessions() as session:
        action = bulk.Action(bulk.get(db.read_only(session), decision_id).action)
    sessions.require(act.visitor, bulk.SCOPES[action])
    bulk.go_on(
        request.app.state.sessions,
        decision_id,
        actor=act.visitor.actor,
        most=views.MOST_AT_ONCE,
    )
    if action != bulk.Action.DENY:
        wake.deletions()
    return pages.go(f"/requests/decisions/{decision_id}")


def _is_number(text: str, *, digits: int) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= digits


def _action(visitor: sessions.Visitor, name: str) -> bulk.Action:
    if name not in list(bulk.Action):
        raise NotFound("there is no such action")
    action = bulk.Action(name)
    sessions.require(visitor, bulk.SCOPES[action])
    return action
