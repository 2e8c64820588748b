"""The command ``unlearn registry``: copies of versions in a model registry of MLflow."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from workers.cli import ledger, output
from workers.cli.output import AsJson

app = typer.Typer(no_args_is_help=True, help="Copies of versions in a model registry.")

_COLUMNS = {
    "model": "model",
    "version": "version",
    "number there": "number",
    "alias": "is_live",
    "to be done": "step",
    "failures": "failures",
    "failing since": "failing_since",
    "last error": "error",
}


@app.callback()
def _noun() -> None:
    """Show copies of versions in a model registry."""


@app.command("list")
def list_copies(
    stuck: Annotated[
        bool, typer.Option("--stuck", help="Only those whose last step failed.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the versions that are, or may be, in the registry, and what is to be done with each.

    Example: unlearn registry list --stuck
    """
    from service.ledger.registry import copies

    with ledger.session() as session:
        found = [asdict(one) for one in copies.listing(session, stuck=stuck)]
    output.rows(found, _COLUMNS, json=as_json)
