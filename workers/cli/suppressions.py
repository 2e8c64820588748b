"""The commands ``unlearn suppressions``: readmit forgotten subjects and records."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from rich.console import Console

from service.settings import Settings
from workers.cli import ledger
from workers.cli.errors import stop as _stop

app = typer.Typer(no_args_is_help=True, help="Readmit forgotten subjects and records.")

err = Console(stderr=True, highlight=False)


@app.callback()
def _commands() -> None:
    """Keep ``readmit`` a command of its own, although it is the only one."""


@app.command()
def readmit(
    dataset: Annotated[
        str | None, typer.Option(help="Readmit records that were forgotten in this dataset.")
    ] = None,
) -> None:
    """Readmit a forgotten subject, or records, to later ingests.

    The subject's id (with --dataset: record ids, one per line) is read from standard input, so that
    it does not stay in the shell's history.

    Example: unlearn suppressions readmit < subject.txt
    """
    from service.errors import ServiceError
    from service.ledger.database import db
    from service.ledger.requests import readmissions
    from service.ledger.selection.digests import Digester

    digester, now = Digester.from_settings(Settings()), db.now()
    with ledger.session() as session:
        named = _ids()
        if not named or (dataset is None and len(named) > 1):
            raise _stop("give one subject id, or --dataset and record ids, on standard input")
        who: dict[str, Any] = {"digester": digester, "actor": "cli", "now": now}
        try:
            lifted = (
                readmissions.readmit_subject(session, named[0], **who)
                if dataset is None
                else readmissions.readmit_records(session, dataset, named, **who)
            )
        except ServiceError as error:
            raise _stop(error.detail) from None
        session.commit()
    err.print(f"{lifted} suppressions are lifted." if lifted else "None was in force.")


def _ids() -> list[str]:
    from service.ledger.database import identifiers

    if sys.stdin.isatty():
        err.print("Type the id and end with Ctrl-D.")
    # Not splitlines(), which would also divide an id at a U+2028 in it. Lines without a visible
    # character name nobody; a carriage return at a line's end is removed as white space.
    return list(filter(identifiers.normalise, sys.stdin.read().split("\n")))
