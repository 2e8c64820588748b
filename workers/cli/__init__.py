"""The command ``unlearn``: everything that an operator does outside HTTP."""

from __future__ import annotations

import json
import logging
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from service.settings import Settings
from workers.cli import (
    datasets,
    errors,
    receipts,
    suppressions,
    trainings,
    webhooks,
    withdrawals,
)
from workers.cli.errors import stop as _stop
from workers.cli.ledger import bulk_engine as _bulk_engine
from workers.cli.ledger import session as _session

app = typer.Typer(
    cls=errors.Commands,
    no_args_is_help=True,
    add_completion=False,
    help="Make machine-learning models forget, on request, with a report of what was measured.",
    epilog="Settings come from the environment (UNLEARN_…) or a file .env; see .env.example.",
)
keys_app = typer.Typer(no_args_is_help=True, help="API keys: create, list, revoke.")
audit_app = typer.Typer(no_args_is_help=True, help="Check audit reports and the audit chain.")
restore_app = typer.Typer(no_args_is_help=True, help="After restoring a backup.")
app.add_typer(datasets.app, name="datasets")
app.add_typer(withdrawals.models_app, name="models")
app.add_typer(withdrawals.versions_app, name="versions")
app.add_typer(trainings.app, name="trainings")
app.add_typer(keys_app, name="keys")
app.add_typer(audit_app, name="audit")
app.add_typer(receipts.app, name="receipts")
app.add_typer(suppressions.app, name="suppressions")
app.add_typer(webhooks.app, name="webhooks")
app.add_typer(restore_app, name="restore")

out = Console()
err = Console(stderr=True, highlight=False)


def main() -> None:
    """Run the command line."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for chatty in ("httpx", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    app()


@app.command()
def migrate() -> None:
    """Bring the database to the present schema.

    Safe to run at any time and from several machines at once.
    """
    from service.ledger.database import db, schema
    from service.ledger.database.connections import Limits

    settings = Settings()
    schema.make_directory(settings.database)
    engine = db.engine(settings.database, limits=Limits.of_bulk(settings))
    schema.upgrade(engine)
    err.print("The database is at the present schema.")


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address of the API.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the API.")] = 8000,
    workers: Annotated[int, typer.Option(help="Worker processes.")] = 1,
) -> None:
    """Run API, worker and beat on this machine, with one state directory.

    Example: unlearn serve --port 8080
    """
    from workers.embedded import serve as embedded

    raise typer.Exit(embedded.run(Settings(), host=host, port=port, processes=workers))


@app.command("worker-health")
def worker_health() -> None:
    """Exit 0 if a worker on this machine is live, 1 if none is; for health checks.

    A worker is live while it writes its heartbeat into the database, as /readyz sees it: also while
    it trains, and no longer once all of its lanes hang.
    """
    from service.ledger.database import db, schema
    from service.ledger.database.connections import Limits
    from service.ledger.registry import heartbeats
    from workers import names

    settings = Settings()
    engine = db.engine(settings.database, pool_size=1, limits=Limits.of_requests(settings))
    schema.require_any(engine)  # the present one or, while an upgrade goes on, a later one
    with db.session_factory(engine)() as session:
        found = heartbeats.living(db.read_only(session), beat_seconds=settings.heartbeat_seconds)
    if not any(names.is_here(worker.name) for worker in found):
        raise _stop(
            f"no worker on {names.machine()} has written a heartbeat lately; start one, or look at "
            "the log of the one that runs"
        )


@app.command()
def demo(
    url: Annotated[str, typer.Option(help="A running service; left out: one is started.")] = "",
    api_key: Annotated[str, typer.Option(envvar="UNLEARN_API_KEY", help="Its key.")] = "",
    data: Annotated[
        Path | None, typer.Option(help="Only write the demo's data file into this folder.")
    ] = None,
    out_dir: Annotated[Path, typer.Option("--out", help="Where the report goes.")] = Path(
        "state/demo"
    ),
    store_url: Annotated[
        str, typer.Option(help="Keep the store of the service that is started in this bucket.")
    ] = "",
) -> None:
    """Run the main job on real data: ingest, train, forget over HTTP, verify, report.

    Against a running service, digits.npz must lie in its data root first:

        unlearn demo --data ./data

        unlearn demo --url http://127.0.0.1:8000 --api-key unl_…
    """
    from workers.demo import digits, run
    from workers.demo.client import DemoFailed

    if data is not None:
        data.mkdir(parents=True, exist_ok=True)
        digits.load().write(data / digits.FILE)
        err.print(f"Wrote {data / digits.FILE}.")
        return
    if url and not api_key:
        raise _stop("a running service wants --api-key; make one there: unlearn keys create demo")
    try:
        if url:
            run.remote(url, api_key, report_dir=out_dir)
        else:
            run.embedded(out_dir, store_url=store_url)
    except DemoFailed as failed:
        raise _stop(str(failed)) from None


@keys_app.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="Who or what the key is for.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="May be repeated; default: admin.")
    ] = None,
    days: Annotated[int | None, typer.Option(help="Days until it expires; default: never.")] = None,
) -> None:
    """Create an API key and show its secret, once, on standard output.

    Example: unlearn keys create crm --scope requests:write --scope requests:read --days 90
    """
    from service.errors import ServiceError
    from service.ledger.database import db
    from service.ledger.registry import keys

    with _session() as session:
        try:
            _row, secret = keys.create(
                session,
                name,
                scopes=scope or ["admin"],
                expires_at=None if days is None else db.now() + timedelta(days=days),
                actor="cli",
                now=db.now(),
            )
        except ServiceError as error:
            raise _stop(error.detail) from None
        session.commit()
    err.print("Keep it now: only its hash is stored.")
    print(secret)


@keys_app.command("list")
def list_keys() -> None:
    """Show the API keys, without their secrets."""
    from sqlalchemy import select

    from service.ledger.database.tables import ApiKey

    table = Table("id", "name", "scopes", "created", "expires", "revoked")
    with _session() as session:
        for key in session.scalars(select(ApiKey).order_by(ApiKey.created_at)):
            moments = (key.created_at, key.expires_at, key.revoked_at)
            table.add_row(
                key.id, key.name, " ".join(key.scopes), *(str(m)[:19] if m else "" for m in moments)
            )
    out.print(table)


@keys_app.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(help="Id of the key, key_…")]) -> None:
    """Revoke an API key; it works for a second longer at most."""
    from service.errors import ServiceError
    from service.ledger.database import db
    from service.ledger.registry import keys

    with _session() as session:
        try:
            keys.revoke(session, key_id, actor="cli", now=db.now())
        except ServiceError as error:
            raise _stop(error.detail) from None
        session.commit()
    err.print(f"{key_id} is revoked.")


@audit_app.command("verify")
def verify_report(
    file: Annotated[
        Path, typer.Argument(help="A saved report, as JSON, page or envelope; or one of the log.")
    ],
    keys: Annotated[
        Path | None, typer.Option(help="Saved /.well-known/unlearning-keys.json.")
    ] = None,
) -> None:
    """Check a saved audit report, without database or network.

    It also reads receipts, signed heads, and checkpoints and proofs of the audit chain's log.

    Example: unlearn audit verify report.json --keys unlearning-keys.json
    """
    from service import audit_file

    findings = audit_file.verify_file(file, keys=keys)
    for line in findings.lines():
        out.print(line, highlight=False, markup=False)
    raise typer.Exit(0 if findings.ok else 1)


@audit_app.command("check")
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
    engine = _bulk_engine(settings)
    sessions = db.session_factory(engine)
    stored = stores.open_for(settings, engine).rows
    with sessions() as session:
        checked = chain.verify(session)
        broken = findings.everything(session)
        try:
            rows = reconcile.rows_in_files(session, stored)
        except StoreError as error:
            raise _stop(f"the raw rows cannot be looked at: {error}") from None
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
    out.print_json(json.dumps(checked.to_json() | told))
    raise typer.Exit(0 if checked.sound and (repair or not (broken or rows)) else 1)


@audit_app.command("certificates")
def check_certificates() -> None:
    """Fit every live head again to its retained rows, and compare sums and weights bit for bit.

    Of the models that the service fitted in closed form. Exit 1 if one does not agree.

    Example: unlearn audit certificates
    """
    from workers.jobs import certify
    from workers.runtime import Runtime

    settings = Settings()
    runtime = Runtime.make(settings, engine=_bulk_engine(settings))
    try:
        found = certify.run(runtime)
    finally:
        runtime.compute.kill()
    out.print_json(json.dumps({"heads": found}))
    raise typer.Exit(1 if any(one["faults"] for one in found) else 0)


@restore_app.command("export")
def export_tombstones(
    file: Annotated[Path, typer.Argument(help="Where the list goes; an older one is replaced.")],
) -> None:
    """Write the signed list of all that was forgotten, to be kept apart from the backups.

    Example: unlearn restore export /safe/tombstones.json
    """
    from workers.jobs import restore

    settings = Settings()
    listed = restore.export(settings, _bulk_engine(settings), file)
    err.print(f"{len(listed.requests)} deletion requests are listed in {file}.")


@restore_app.command("check")
def check_restored(
    file: Annotated[Path, typer.Argument(help="The newest list of `unlearn restore export`.")],
    apply: Annotated[bool, typer.Option("--apply", help="Have it all forgotten again.")] = False,
) -> None:
    """Compare restored database and files with the list; exit 1 when something came back.

    Keep API and workers stopped until it was run with --apply.

    Example: unlearn restore check /safe/tombstones.json --apply
    """
    from service.ledger.restore.tombstones import NotTombstones
    from workers.jobs import restore

    settings = Settings()
    engine = _bulk_engine(settings)
    try:
        found = restore.check(settings, engine, file)
        for line in restore.lines(found):
            out.print(line, highlight=False, markup=False)
        if found.clean:
            err.print("Nothing that was forgotten is back.")
            return
        if not apply:
            raise _stop("Something came back; run this again with --apply, then start the workers.")
        done = restore.apply(settings, engine, file, actor="cli")
    except NotTombstones as error:
        raise _stop(str(error)) from None
    err.print(f"{done.requests} deletion requests are queued again, {done.records} records.")
    for model in done.retrained:
        err.print(f"Model {model} will be retrained: rows that it contains are gone already.")
    err.print("Start the workers; this command without --apply then tells when all is forgotten.")
