"""The commands ``unlearn requests import-drop`` and ``drop-status``: lists of California's DROP."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich import progress as bars
from rich.console import Console

from service.settings import Settings
from workers.cli import ledger
from workers.cli.errors import stop as _stop
from workers.jobs.drop import Form, Item, List

app = typer.Typer(no_args_is_help=True, help="Deletion requests in bulk.")

err = Console(stderr=True, highlight=False)

File = Annotated[Path, typer.Argument(help="A list of DROP: CSV with the columns ID and Hash.")]
Which = Annotated[List, typer.Option("--list", help="Which of DROP's lists it is.")]
As = Annotated[
    Form, typer.Option("--ingested-as", help="How the subjects' hashes were written at ingest.")
]


@app.command("import-drop")
def import_drop(
    file: File,
    which: Which,
    form: As = Form.BASE64,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count what would match; record nothing.")
    ] = False,
) -> None:
    """Record a deletion request for each hash of a list of DROP, in every dataset.

    Hashes match subjects that were ingested under the same hashes. An import that was cut off is
    begun again with the same command; no hash gets a second request.

    Example: unlearn requests import-drop 20260801_4821_Email.csv --list email --dry-run
    """
    from service.ledger.database import db
    from service.ledger.selection.digests import Digester
    from workers.jobs import drop

    items = drop.each_hash_once(_read(file, which, form))
    settings = Settings()
    sessions = db.session_factory(ledger.engine(settings))
    digester = Digester.from_settings(settings)
    with _bar(len(items)) as told:
        if dry_run:
            matched, requested = drop.count(sessions, items, digester=digester, told=told)
            err.print(
                f"{len(items)} hashes: {matched} match a subject, {len(items) - matched} none; "
                f"{requested} have a request already. Nothing was recorded."
            )
            return
        try:
            done = drop.import_items(
                sessions,
                items,
                which,
                digester=digester,
                max_queue=settings.max_queue,
                now=db.now,
                told=told,
            )
        except drop.Stopped as stopped:
            raise _stop(f"{stopped}. What was recorded stays; run this again to go on") from None
    err.print(
        f"{len(items)} hashes: {sum(done.recorded.values())} requests recorded, of which "
        f"{done.matched} match a subject; {done.repeated} had one already."
    )


@app.command("drop-status")
def drop_status(
    file: File,
    which: Which,
    out: Annotated[Path, typer.Option(help="Where the answers go; it must not exist yet.")],
    form: As = Form.BASE64,
) -> None:
    """Write the answers to a list, to be uploaded to DROP: 3, deleted, and 5, not found.

    Left out are the hashes whose requests are not done; run this again later. What is exempt (2) or
    only opted out (4) is for a person to say.

    Example: unlearn requests drop-status 20260801_4821_Email.csv --list email --out answers.csv
    """
    from service.ledger.database import db
    from service.ledger.selection.digests import Digester
    from workers.jobs import drop

    items = _read(file, which, form)
    settings = Settings()
    sessions = db.session_factory(ledger.engine(settings))
    digester = Digester.from_settings(settings)
    done, left = drop.outcomes(sessions, items, which, digester=digester)
    try:
        with out.open("x", encoding="utf-8", newline="") as stream:
            table = csv.writer(stream, lineterminator="\n")
            table.writerow(["Id", "Status"])
            table.writerows((item, code.value) for item, code in done.items())
    except FileExistsError:
        raise _stop(f"{out} exists; give a new name with --out") from None
    waiting = ", ".join(f"{number} {state}" for state, number in sorted(left.items()))
    err.print(f"{len(done)} answers are in {out}." + (f" Left out: {waiting}." if left else ""))


def _read(file: Path, which: List, form: Form) -> list[Item]:
    from workers.jobs import drop

    try:
        return drop.read(file, which, form)
    except drop.NotAList as error:
        raise _stop(str(error)) from None


@contextmanager
def _bar(total: int) -> Iterator[Callable[[int], None]]:
    """Show how far it is, if a person looks on."""
    columns = (bars.TextColumn("hashes"), bars.BarColumn(), bars.MofNCompleteColumn())
    with bars.Progress(*columns, console=err, transient=True) as shown:
        task = shown.add_task("hashes", total=total)
        yield lambda more: shown.advance(task, more)
