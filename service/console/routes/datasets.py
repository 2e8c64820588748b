"""Datasets: their parts and columns, and their withdrawal."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Response

from service.api import deps, pagination
from service.console import pages, sessions
from service.console.views import datasets as views
from service.errors import Unprocessable
from service.ledger.database import db
from service.ledger.destruction import withdrawals
from service.ledger.registry import datasets

PATH = "/datasets"

router = pages.router()

Reading = Annotated[sessions.Visitor, sessions.looking("models:read")]
Writing = Annotated[sessions.Act, sessions.acting("models:read", "models:write")]
Done = Annotated[str, Query(max_length=20)]


@router.get(PATH)
def listing(visitor: Reading, session: deps.Reader, paging: pagination.Asked) -> Response:
    """List the datasets."""
    return pages.render("datasets.html", visitor, path=PATH, **views.listing(session, paging))


@router.get("/datasets/{dataset}")
def show(visitor: Reading, session: deps.Reader, dataset: deps.Name, done: Done = "") -> Response:
    """Show a dataset."""
    shown = views.one(session, visitor, dataset)
    return pages.render("dataset.html", visitor, path=PATH, done=done, **shown)


@router.post("/datasets/{dataset}/withdraw")
def withdraw(act: Writing, session: deps.Session, wake: deps.Wake, dataset: deps.Name) -> Response:
    """Withdraw a dataset; what is live goes with it only for a key that decides what is live."""
    if act.form.text("name") != dataset:
        raise Unprocessable(f"type the name {dataset} to confirm; nothing was withdrawn")
    row = datasets.get(session, dataset)
    models: withdrawals.Models = "withdraw" if act.form.text("models") == "withdraw" else "keep"
    if models == "withdraw" and withdrawals.anything_live(session, row):
        sessions.require(act.visitor, "models:promote")
    withdrawals.withdraw_dataset(
        session,
        row,
        models=models,
        purge="now" if act.form.text("purge") == "now" else "after_window",
        actor=act.visitor.actor,
        now=db.now(),
    )
    session.commit()
    wake.background()
    return pages.go(f"{PATH}/{dataset}", done="withdraw")
