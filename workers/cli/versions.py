"""The commands ``unlearn versions``: list, show, promote, approve, withdraw."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from service.ledger.database.states import VersionStatus
from workers.cli import ledger, output, withdrawals
from workers.cli.errors import err
from workers.cli.output import AsJson

app = typer.Typer(no_args_is_help=True, help="Show versions, approve them, withdraw them.")
app.command("withdraw")(withdrawals.withdraw_version)

ACTOR = "cli"
MOST = 1_000

ModelName = Annotated[str, typer.Argument(help="Name of the model.")]
Number = Annotated[int, typer.Argument(help="Number of the version.")]

_COLUMNS = {
    "number": "number",
    "status": "status",
    "live": "is_production",
    "origin": "origin",
    "parent": "parent",
    "verdict": "verdict",
    "created": "created_at",
    "sha256": "digest",
}


@app.command("list")
def list_versions(
    model: ModelName,
    status: Annotated[VersionStatus | None, typer.Option(help="Only in this state.")] = None,
    before: Annotated[int | None, typer.Option(help="Continue before this number.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=MOST, help="How many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List the versions of a model, newest first.

    Example: unlearn versions list face-classifier --status published
    """
    from service.ledger.registry import models
    from service.ledger.reports import described, history

    with ledger.session() as session:
        owner = models.get(session, model)
        rows = history.versions(session, owner, status=status, before=before, limit=limit)
        found = described.versions(session, owner, rows)
    output.rows(found, _COLUMNS, json=as_json)


@app.command("show")
def show_version(model: ModelName, number: Number, as_json: AsJson = False) -> None:
    """Show a version: what it was made from, by which method, and its verdict.

    Example: unlearn versions show face-classifier 3
    """
    from service.ledger.registry import models, versions
    from service.ledger.reports import described

    with ledger.session() as session:
        owner = models.get(session, model)
        found: dict[str, Any] = described.versions(
            session, owner, [versions.get(session, owner, number)]
        )[0]
    output.one(found, json=as_json)


@app.command("approve")
def approve_version(model: ModelName, number: Number) -> None:
    """Approve a version that is held: it goes live now, and its deletion requests go on.

    Example: unlearn versions approve face-classifier 4
    """
    from service.ledger.batches import approvals
    from service.ledger.database import db
    from service.ledger.registry import models, versions

    with ledger.session() as session:
        owner = models.get(session, model)
        version = versions.get(session, owner, number)
        approvals.approve(session, owner, version, actor=ACTOR, now=db.now())
        session.commit()
    err.print(f"Version {number} of {model} is live.")
