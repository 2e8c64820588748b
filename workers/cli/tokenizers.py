"""``unlearn tokenizers``: show the tokenizers that texts are read with, and delete unused ones."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from service.settings import Settings
from workers.cli import ledger
from workers.cli.errors import stop as _stop

app = typer.Typer(no_args_is_help=True, help="Show tokenizers, and delete those that are unused.")

out = Console()


@app.command("list")
def list_tokenizers() -> None:
    """Show the tokenizers by digest."""
    from sqlalchemy import select

    from service.ledger.database.tables import Tokenizer

    table = Table("digest", "bytes", "since")
    with ledger.session() as session:
        for one in session.scalars(select(Tokenizer).order_by(Tokenizer.digest)):
            table.add_row(one.digest, str(one.size_bytes), one.created_at.isoformat())
    out.print(table, markup=False, soft_wrap=True)


@app.command("delete")
def delete_tokenizer(
    digest: Annotated[str, typer.Argument(help="SHA-256 of the tokenizer.json.")],
) -> None:
    """Delete a tokenizer that no dataset is read with and no encoder has; destroy its file."""
    import re

    from service.errors import ServiceError
    from service.ledger.registry import tokenizers
    from workers.jobs import purge
    from workers.runtime import Runtime

    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise _stop("a digest has 64 digits of 0-9 and a-f; see: unlearn tokenizers list")
    settings = Settings()
    runtime = Runtime.make(settings, engine=ledger.bulk_engine(settings))
    try:
        with runtime.session() as session:
            tokenizers.remove(session, digest, actor="cli")
        purge.destroy_orphan(runtime, tokenizers.KIND, digest)
    except ServiceError as error:
        raise _stop(error.detail) from None
    out.print(f"{digest} is deleted", highlight=False, markup=False, soft_wrap=True)
