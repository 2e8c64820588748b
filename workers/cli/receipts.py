"""The commands ``unlearn receipts``: check what a person was handed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(no_args_is_help=True, help="Receipts of deletion requests.")

out = Console()


@app.callback()
def receipts() -> None:
    """Receipts of deletion requests."""


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="A saved receipt, as JSON or as a page.")],
    keys: Annotated[
        Path | None, typer.Option(help="Saved /.well-known/unlearning-keys.json.")
    ] = None,
    proof: Annotated[
        list[Path] | None,
        typer.Option(help="Saved proof that a line of it is in the audit chain's log; repeatable."),
    ] = None,
) -> None:
    """Check a saved receipt of a deletion request, without database or network.

    Example: unlearn receipts verify receipt.json --keys unlearning-keys.json
    """
    from service import audit_file

    found = [audit_file.verify_file(file, keys=keys)]
    found += [audit_file.verify_proof(file, one, keys=keys) for one in proof or ()]
    for findings in found:
        for line in findings.lines():
            out.print(line, highlight=False, markup=False)
    raise typer.Exit(0 if all(findings.ok for findings in found) else 1)
