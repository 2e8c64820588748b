"""``unlearn encoders``: bring encoders that were trained elsewhere, and show them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from service.settings import Settings
from workers.cli import ledger
from workers.cli.errors import stop as _stop

if TYPE_CHECKING:
    from service.ledger.database.tables import Encoder

app = typer.Typer(no_args_is_help=True, help="Bring encoders that were trained elsewhere.")

out = Console()


@app.command("add")
def add_encoder(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Directory of config.json, model.safetensors and tokenizer.json (images: "
            "preprocessor_config.json)."
        ),
    ],
    statement: Annotated[
        str, typer.Option(help="What it was trained on; audit reports repeat it.")
    ],
    name: Annotated[
        str | None, typer.Option(help="Name of the encoder; default: that of the directory.")
    ] = None,
) -> None:
    """Check and store an encoder of this machine; no code and no pickle of it is read.

    Example: unlearn encoders add ./minilm --statement "Public web text, none of our customers'."
    """
    import re

    from service.errors import ServiceError
    from service.ledger.registry import encoders
    from workers.jobs import encoders as jobs
    from workers.runtime import Runtime

    name = folder.resolve().name if name is None else name
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name):
        raise _stop(f"{name!r} is not a name: use lower-case letters, digits, . _ - (--name)")
    if not statement.strip():
        raise _stop("say what the encoder was trained on (--statement)")
    settings = Settings()
    runtime = Runtime.make(settings, engine=ledger.bulk_engine(settings))
    try:
        with runtime.lease(jobs.lease_key(name)) as held:
            if held is None:
                raise _stop("a worker is checking it; look at it with: unlearn encoders list")
            with runtime.session() as session:
                encoders.create(
                    session,
                    name,
                    source={"path": folder.name},
                    statement=statement,
                    actor="cli",
                    now=runtime.now(),
                )
            refused = jobs.check(runtime, name, folder.resolve(), held=held)
        if refused:
            raise _stop(refused)
        with runtime.session() as session:
            found = encoders.get(session, name)
            for line in _told(found):
                out.print(line, highlight=False, markup=False, soft_wrap=True)
    except ServiceError as error:
        raise _stop(error.detail) from None
    finally:
        runtime.compute.kill()


def _told(encoder: Encoder) -> list[str]:
    facts = encoder.facts or {}
    first = f"{encoder.name}: {facts['kind']}, {facts['layers']} layers of width {facts['width']}"
    if encoder.tokenizer_digest is None:
        size = f"{facts['image_height']} × {facts['image_width']}"
        return [
            f"{first}, images of {facts['channels']} channels, resized to {size}",
            f"encoder {encoder.digest}",
        ]
    return [
        f"{first}, {facts['vocabulary']} token ids, at most {facts['length']} in a row",
        f"encoder {encoder.digest}",
        f"tokenizer {encoder.tokenizer_digest}",
    ]


@app.command("list")
def list_encoders() -> None:
    """Show the encoders, and the statements about what they were trained on."""
    from sqlalchemy import select

    from service.ledger.database.tables import Encoder

    table = Table("name", "status", "digest", "statement")
    with ledger.session() as session:
        for one in session.scalars(select(Encoder).order_by(Encoder.name)):
            told = one.statement if one.error is None else one.error
            table.add_row(one.name, one.status, one.digest or "", told)
    out.print(table, markup=False)


@app.command("delete")
def delete_encoder(name: Annotated[str, typer.Argument(help="Name of the encoder.")]) -> None:
    """Delete an encoder that no model is built on and no dataset holds features of.

    Its files are destroyed; its tokenizer stays (unlearn tokenizers delete).
    """
    from service.errors import ServiceError
    from service.ledger.registry import encoders
    from workers.jobs import purge
    from workers.runtime import Runtime

    settings = Settings()
    runtime = Runtime.make(settings, engine=ledger.bulk_engine(settings))
    try:
        with runtime.session() as session:
            files = encoders.remove(session, encoders.get_locked(session, name), actor="cli")
        for digest in files:
            purge.destroy_orphan(runtime, encoders.KIND, digest)
    except ServiceError as error:
        raise _stop(error.detail) from None
    out.print(f"{name} is deleted", highlight=False, markup=False)
