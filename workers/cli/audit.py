"""The commands ``unlearn audit``: what happened, and whether chain and reports are sound."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.settings import Settings
from workers.cli import ledger, output
from workers.cli.errors import stop
from workers.cli.output import AsJson, out

app = typer.Typer(no_args_is_help=True, help="Check audit reports and the audit chain.")

_COLUMNS = {
    "line": "seq",
    "at": "at",
    "who": "actor",
    "what": "action",
    "about": "subject",
    "data": "data",
}


@app.command("events")
def list_events(
    subject: Annotated[
        str | None, typer.Option(help="Only about this, such as model:face-classifier.")
    ] = None,
    action: Annotated[
        str | None, typer.Option(help="Only of this action, such as version:promoted.")
    ] = None,
    before: Annotated[int | None, typer.Option(help="Continue before this line.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="How many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List lines of the audit chain, newest first.

    Example: unlearn audit events --subject model:face-classifier
    """
    from service.ledger.audit import chain

    if action is not None and action not in list(chain.Action):
        raise stop(f"there is no action {action}; the lines of `unlearn audit events` show some")
    wanted = None if action is None else chain.Action(action)
    with ledger.session() as session:
        lines = chain.page(session, limit=limit, before=before, subject=subject, action=wanted)
        found = [chain.describe(line) for line in lines]
    output.rows(found, _COLUMNS, json=as_json)


@app.command("verify")
def verify_report(
    file: Annotated[
        Path, typer.Argument(help="A saved report, as JSON, page or envelope; or one of the log.")
    ],
    keys: Annotated[
        Path | None, typer.Option(help="Saved /.well-known/unlearning-keys.json.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a saved audit report, without database or network.

    It also reads receipts, signed heads, and checkpoints and proofs of the audit chain's log.

    Example: unlearn audit verify report.json --keys unlearning-keys.json
    """
    from service import audit_file

    findings = audit_file.verify_file(file, keys=keys)
    if as_json:
        output.as_json({"ok": findings.ok, "findings": list(findings.lines())})
    else:
        for line in findings.lines():
            out.print(line, highlight=False, markup=False)
    raise typer.Exit(0 if findings.ok else 1)


@app.command("check")
def check_ledger(
    repair: Annotated[
        bool, typer.Option("--repair", help="Open the missing work; workers then do it.")
    ] = False,
) -> None:
    """Recompute the whole audit chain, and prove that what was forgotten is gone.

    No published version holds a record of a completed deletion request, no such request lacks its
    erasure on a model that was live with its records, no raw row of one stands in tables or files.
    Exit 1 when something is wrong that was not repaired.
    """
    from models_store.errors import StoreError
    from service.ledger.audit import chain
    from service.ledger.database import db
    from service.ledger.reconciliation import findings, reconciler
    from workers import stores
    from workers.jobs import reconcile

    settings = Settings()
    engine = ledger.bulk_engine(settings)
    sessions = db.session_factory(engine)
    stored = stores.open_for(settings, engine).rows
    with sessions() as session:
        checked = chain.verify(session)
        broken = findings.everything(session)
        try:
            rows = reconcile.rows_in_files(session, stored)
        except StoreError as error:
            raise stop(f"the raw rows cannot be looked at: {error}") from None
        found = reconcile.segments_of_all(session)
    if repair:
        reconcile.erase(stored, rows, found)
        with sessions() as session:
            for name, its in rows.items():
                reconciler.overwritten(session, name, len(its), actor="cli")
            reconciler.repair(session, broken, actor="cli", now=db.now())
            session.commit()
    told = {
        "broken": [one.to_json() for one in broken],
        "raw_rows": {name: len(its) for name, its in rows.items()},
        "repaired": repair and bool(broken or rows),
    }
    output.as_json(checked.to_json() | told)
    raise typer.Exit(0 if checked.sound and (repair or not (broken or rows)) else 1)


@app.command("certificates")
def check_certificates() -> None:
    """Compare every live head with its retained rows: its sums bit for bit, and its weights.

    Those of a ridge head with a fit's, bit for bit; those of a logistic head with the minimum,
    within the bound. Exit 1 if one does not agree.

    Example: unlearn audit certificates
    """
    from workers.jobs import certify
    from workers.runtime import Runtime

    settings = Settings()
    runtime = Runtime.make(settings, engine=ledger.bulk_engine(settings))
    try:
        found = certify.run(runtime)
    finally:
        runtime.compute.kill()
    output.as_json({"heads": found})
    raise typer.Exit(1 if any(one["faults"] for one in found) else 0)
