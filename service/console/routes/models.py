"""Models and versions: their lineage and verdicts, and what is live."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from fastapi import Path, Query, Response
from fastapi.responses import JSONResponse

from service.api import deps, negotiation, pagination
from service.api.routes import aliases, checkpoints
from service.console import documents, pages, sessions
from service.console.forms import Form
from service.console.views import models as views
from service.errors import Unprocessable
from service.ledger.audit import canonical
from service.ledger.batches import approvals, next_batch
from service.ledger.database import db
from service.ledger.destruction import withdrawals
from service.ledger.destruction.withdrawals import Purge
from service.ledger.registry import models, versions
from service.ledger.reports import report
from service.ledger.training import runs

PATH = "/models"
_REASON = re.compile(r"[A-Za-z0-9 ._-]{1,40}")
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")

router = pages.router()

Reading = Annotated[sessions.Visitor, sessions.looking("models:read")]
Auditing = Annotated[sessions.Visitor, sessions.looking("audit:read")]
Writing = Annotated[sessions.Act, sessions.acting("models:read", "models:write")]
Promoting = Annotated[sessions.Act, sessions.acting("models:read", "models:promote")]
RunId = Annotated[str, Path(pattern=r"^run_[0-9a-z]{26}$")]
Done = Annotated[str, Query(max_length=20)]


@router.get(PATH)
def listing(visitor: Reading, session: deps.Reader, paging: pagination.Asked) -> Response:
    """List the models."""
    return pages.render("models.html", visitor, path=PATH, **views.listing(session, paging))


@router.get("/models/{model}")
def show(
    visitor: Reading,
    session: deps.Reader,
    model: deps.Name,
    paging: pagination.Asked,
    done: Done = "",
) -> Response:
    """Show a model."""
    shown = views.model(session, visitor, model, paging)
    return pages.render("model.html", visitor, path=PATH, done=done, **shown)


@router.get("/models/{model}/versions/{number}")
def show_version(
    visitor: Reading, session: deps.Reader, model: deps.Name, number: deps.Number, done: Done = ""
) -> Response:
    """Show a version."""
    shown = views.version(session, visitor, model, number)
    return pages.render("version.html", visitor, path=PATH, done=done, **shown)


@router.get("/models/{model}/versions/{number}/report")
def show_report(
    _visitor: Auditing,
    session: deps.Reader,
    digester: deps.Digests,
    signer: deps.Signer,
    model: deps.Name,
    number: deps.Number,
) -> Response:
    """Show the audit report of a version as a page to print or save."""
    version = versions.get(session, models.get(session, model), number)
    made = report.report(session, version, digester=digester, signer=signer, now=db.now())
    return negotiation.show(documents.report(canonical.encode(made)))


@router.get("/models/{model}/versions/{number}/checkpoint")
def download(
    visitor: Reading,
    session: deps.Reader,
    store: deps.Store,
    model: deps.Name,
    number: deps.Number,
) -> Response:
    """Hand out the weights of a version, if they hold no forgotten record."""
    found: Response = checkpoints.download(model, number, visitor.principal, session, store)
    return found


@router.get("/models/{model}/versions/{number}/checkpoint/signature")
def signature(
    visitor: Reading,
    session: deps.Reader,
    signer: deps.ModelSigner,
    model: deps.Name,
    number: deps.Number,
) -> Response:
    """Hand out the signature over the weights of a version."""
    bundle = checkpoints.signature(model, number, visitor.principal, session, signer)
    return JSONResponse(bundle)


@router.post("/models/{model}/train")
def train(act: Writing, session: deps.Session, wake: deps.Wake, model: deps.Name) -> Response:
    """Queue a training."""
    row = models.get(session, model)
    runs.create(session, row, actor=act.visitor.actor, now=db.now())
    session.commit()
    wake.trainings()
    return pages.go(f"{PATH}/{model}", done="train")


@router.post("/models/{model}/training-runs/{run}/cancel")
def cancel(
    act: Writing, session: deps.Session, wake: deps.Wake, model: deps.Name, run: RunId
) -> Response:
    """Cancel a training run."""
    found = runs.get(session, models.get(session, model), run)
    runs.cancel(session, found, actor=act.visitor.actor, now=db.now())
    session.commit()
    wake.background()
    return pages.go(f"{PATH}/{model}", done="cancel")


@router.post("/models/{model}/run-now")
def run_now(act: Writing, session: deps.Session, wake: deps.Wake, model: deps.Name) -> Response:
    """Close the model's next batch at once."""
    row = models.get(session, model)
    next_batch.run_now(session, row, method=None, options={}, actor=act.visitor.actor, now=db.now())
    session.commit()
    wake.deletions(row.id)
    return pages.go(f"{PATH}/{model}", done="run-now")


@router.post("/models/{model}/withdraw")
def withdraw(act: Promoting, session: deps.Session, wake: deps.Wake, model: deps.Name) -> Response:
    """Withdraw a model."""
    _confirm(act.form, model)
    row = models.get(session, model)
    withdrawals.withdraw_model(
        session, row, purge=_purge(act.form), actor=act.visitor.actor, now=db.now()
    )
    _commit(session, wake, row.id)
    return pages.go(f"{PATH}/{model}", done="withdraw")


@router.post("/models/{model}/versions/{number}/promote")
def promote(
    act: Promoting, session: deps.Session, wake: deps.Wake, model: deps.Name, number: deps.Number
) -> Response:
    """Make a version live, if what the page said to be live still is."""
    reason = act.form.text("reason") or "manual"
    if not _REASON.fullmatch(reason):
        raise Unprocessable("a reason has 1 to 40 letters, digits, spaces, dots, - or _")
    row = models.get(session, model)
    aliases.promote(
        session,
        row,
        versions.get(session, row, number),
        expected=_number(act.form.text("expected")),
        reason=reason,
        actor=act.visitor.actor,
    )
    session.commit()
    wake.trainings()
    wake.deletions(row.id)
    return pages.go(f"{PATH}/{model}/versions/{number}", done="promote")


@router.post("/models/{model}/versions/{number}/approve")
def approve(
    act: Promoting, session: deps.Session, wake: deps.Wake, model: deps.Name, number: deps.Number
) -> Response:
    """Approve a version that is held."""
    row = models.get(session, model)
    version = versions.get(session, row, number)
    approvals.approve(session, row, version, actor=act.visitor.actor, now=db.now())
    _commit(session, wake, row.id)
    return pages.go(f"{PATH}/{model}/versions/{number}", done="approve")


@router.post("/models/{model}/versions/{number}/withdraw")
def withdraw_version(
    act: Promoting, session: deps.Session, wake: deps.Wake, model: deps.Name, number: deps.Number
) -> Response:
    """Withdraw a version."""
    row = models.get(session, model)
    successor = _number(act.form.text("successor"))
    withdrawals.withdraw_version(
        session,
        row,
        versions.get(session, row, number),
        successor=None if successor is None else versions.get(session, row, successor),
        purge=_purge(act.form),
        actor=act.visitor.actor,
        now=db.now(),
    )
    _commit(session, wake, row.id)
    return pages.go(f"{PATH}/{model}/versions/{number}", done="withdraw")


def _commit(session: deps.Session, wake: deps.Wake, model_id: int) -> None:
    """Commit what ended versions; wake who destroys them and who unlearns from the model."""
    session.commit()
    wake.background()
    wake.deletions(model_id)


def _confirm(form: Form, name: str) -> None:
    """Raise ``Unprocessable`` unless the name of what is to go was typed."""
    if form.text("name") != name:
        raise Unprocessable(f"type the name {name} to confirm; nothing was withdrawn")


def _purge(form: Form) -> Purge:
    when: Literal["now", "after_window"] = "now" if form.text("purge") == "now" else "after_window"
    return when


def _number(text: str) -> int | None:
    if not text:
        return None
    if not _NUMBER.fullmatch(text):
        raise Unprocessable("a version is named by its number")
    return int(text)
