"""The command ``unlearn``: everything that an operator does outside HTTP."""

from __future__ import annotations

import logging
import signal
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from service.settings import Settings
from workers.cli import (
    audit,
    datasets,
    drop,
    encoders,
    errors,
    keys,
    models,
    receipts,
    registry,
    requests,
    runs,
    suppressions,
    tokenizers,
    versions,
    webhooks,
)
from workers.cli.errors import stop as _stop
from workers.cli.ledger import bulk_engine as _bulk_engine

app = typer.Typer(
    cls=errors.Commands,
    no_args_is_help=True,
    help="Make machine-learning models forget, on request, with a report of what was measured.",
    epilog="Settings come from the environment (UNLEARN_…) or a file .env; see .env.example.",
)
restore_app = typer.Typer(no_args_is_help=True, help="After restoring a backup.")
requests.app.add_typer(drop.app)
app.add_typer(requests.app, name="requests")
app.add_typer(datasets.app, name="datasets")
app.add_typer(encoders.app, name="encoders")
app.add_typer(tokenizers.app, name="tokenizers")
app.add_typer(models.app, name="models")
app.add_typer(versions.app, name="versions")
app.add_typer(runs.app, name="runs")
app.add_typer(keys.app, name="keys")
app.add_typer(audit.app, name="audit")
app.add_typer(receipts.app, name="receipts")
app.add_typer(registry.app, name="registry")
app.add_typer(suppressions.app, name="suppressions")
app.add_typer(webhooks.app, name="webhooks")
app.add_typer(restore_app, name="restore")

out = Console()
err = Console(stderr=True, highlight=False)


def main() -> None:
    """Run the command line."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for chatty in ("httpx", "alembic", "service.changes"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    app()


def _show_version(asked: bool) -> None:
    if asked:
        print(metadata.version("unlearn"))
        raise typer.Exit


@app.callback()
def _common(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Make machine-learning models forget, on request, with a report of what was measured."""


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


@app.command("compute-node")
def compute_node(
    number: Annotated[
        int, typer.Argument(min=1, help="Number of this machine, from 1; the worker's is 0.")
    ],
) -> None:
    """Compute with a worker on another machine, as one of UNLEARN_COMPUTE_NODES.

    It needs the worker's settings of the store and of UNLEARN_COMPUTE_..., and no database.
    """
    from workers.schedule.node import Node

    settings = Settings()
    if number >= settings.compute_nodes:
        raise _stop(
            f"UNLEARN_COMPUTE_NODES is {settings.compute_nodes}, so the last machine's number is "
            f"{settings.compute_nodes - 1}; set both as for the worker"
        )
    node = Node(settings, number=number)
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda *_: node.stop())
    node.run()


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
