"""``unlearn datasets``: bring training data in, and show how it was read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from service.ledger.database.identifiers import Case
from service.settings import Settings
from workers.cli import ledger, output, printed_datasets, texts, typed_tables, withdrawals
from workers.cli.errors import stop as _stop
from workers.cli.output import AsJson

app = typer.Typer(
    no_args_is_help=True, help="Bring training data in, show how it was read, and destroy it."
)
app.command("delete")(withdrawals.delete_dataset)


#: As `GET /v1/datasets` lists them; counting their records is left to `show`.
_LISTED = (
    *("name", "status", "progress", "error", "source", "rows", "shape", "dtype", "classes"),
    *("revision", "created_at", "ready_at", "withdrawn_at", "purged_at"),
)
_COLUMNS = {
    "name": "name",
    "status": "status",
    "rows": "rows",
    "classes": "classes",
    "revision": "revision",
    "created": "created_at",
    "error": "error",
}


class Existing(StrEnum):
    """What is done with rows whose record ids the dataset has."""

    REFUSE = "refuse"
    SKIP = "skip"


out = Console()
err = Console(stderr=True, highlight=False)


@app.command("add")
def add_dataset(
    name: Annotated[str, typer.Argument(help="Name of the dataset, as in URLs.")],
    path: Annotated[Path, typer.Argument(help="File or folder to read.")],
    format: Annotated[str | None, typer.Option(help="Recognised if left out.")] = None,
    record_id: Annotated[str | None, typer.Option(help="Column of the record ids.")] = None,
    subject_id: Annotated[str | None, typer.Option(help="Column of the subject ids.")] = None,
    label: Annotated[str | None, typer.Option(help="Column of the labels.")] = None,
    split: Annotated[str | None, typer.Option(help="Column of the splits.")] = None,
    image: Annotated[str | None, typer.Option(help="Column of encoded images.")] = None,
    text: Annotated[str | None, typer.Option(help="Column of texts, with --tokenizer.")] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="A tokenizer.json: the rows are texts.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Tokens of a row, with --tokenizer; default: 128.")
    ] = None,
    feature: Annotated[
        list[str] | None, typer.Option(help="A column to learn from; may be repeated.")
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(help="A column to leave out; may be repeated.")
    ] = None,
    classes: Annotated[int | None, typer.Option(help="Number of classes.")] = None,
    id_case: Annotated[
        Case | None, typer.Option(help="What ids that differ by case are: distinct, or one.")
    ] = None,
    input: Annotated[
        str | None, typer.Option(help="What the rows are: images or a table if left out.")
    ] = None,
    input_options: Annotated[
        str, typer.Option(help="What that kind of input asks about the rows, as JSON.")
    ] = "{}",
    typed: Annotated[
        bool,
        typer.Option("--typed", help="A table whose columns have types: words, true and false."),
    ] = False,
    type: Annotated[
        list[str] | None,
        typer.Option(
            help="COLUMN=number, whole, boolean or category, of a typed table; recognised if left "
            "out; may be repeated."
        ),
    ] = None,
    missing: Annotated[
        list[str] | None,
        typer.Option(
            help="A text that means a missing value of a typed table, '' an empty field; it is "
            "imputed; may be repeated."
        ),
    ] = None,
    as_they_are: Annotated[
        bool,
        typer.Option("--as-they-are", help="Neither centre nor scale numbers of a typed table."),
    ] = False,
    keep_text: Annotated[
        bool,
        typer.Option("--keep-text", help="Also keep the texts of which rows are made."),
    ] = False,
    text_bytes: Annotated[
        int, typer.Option(min=16, max=65_536, help="With --keep-text: bytes of the longest text.")
    ] = 4096,
    seed: Annotated[int, typer.Option(help="Seed of the drawn splits.")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what it would be read as; keep nothing.")
    ] = False,
) -> None:
    """Ingest a file of this machine.

    Example: unlearn datasets add digits digits.csv --record-id id --subject-id writer

    Example: unlearn datasets add census census.csv --label income --missing '?'

    With --tokenizer the rows are texts, stored as token ids; the texts themselves are kept only
    with --keep-text.

    Example: unlearn datasets add letters letters.csv --tokenizer tokenizer.json --max-length 64
    """
    import re

    from service.errors import ServiceError
    from service.ledger.registry import datasets
    from workers.jobs import ingest, tokenizers
    from workers.runtime import Runtime

    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name):
        raise _stop(f"{name!r} is not a dataset name: use lower-case letters, digits, . _ -")
    if not path.exists():
        raise _stop(f"there is no file or folder {path}")
    settings = Settings()
    runtime = Runtime.make(settings, engine=ledger.bulk_engine(settings))
    columns = {
        "record_id": record_id,
        "subject_id": subject_id,
        "label": label,
        "split": split,
        "image": image,
        "text": text,
        "features": feature,
        "ignored": ignore,
    }
    content, stated = texts.stated(tokenizer, max_length, input)
    source = {
        "path": path.name,
        "format": format,
        "columns": {role: column for role, column in columns.items() if column is not None},
        "classes": classes,
        "id_case": id_case,
        "input": stated or (input and {"name": input, "options": _stated(input_options)}),
        "table": typed_tables.stated(typed, type or [], missing or [], as_they_are),
        "keep_text": keep_text,
        "text_bytes": text_bytes,
        "seed": seed,
    }
    if dry_run:
        shown = _inspected(runtime, path, source, content)
        printed_datasets.dataset({"name": name, "status": "ready", **shown})
        return
    if content is not None:
        tokenizers.keep(runtime, content, actor="cli")
    try:
        with runtime.session() as session:
            dataset = datasets.create(session, name, source=source, actor="cli", now=runtime.now())
    except ServiceError as error:
        raise _stop(error.detail) from None
    with _bar() as bar, runtime.lease(ingest.lease_key(dataset.id)) as held:
        if held is None:
            raise _stop("a worker was quicker and is ingesting it; watch it in the API")
        task = bar.add_task(f"Reading {path.name}", total=None)
        refused = ingest.ingest(
            runtime,
            dataset.id,
            path.resolve(),
            held=held,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if refused:
        raise _stop(refused)
    with runtime.session() as session:
        printed_datasets.dataset(datasets.describe(session, datasets.get(session, name)))


@app.command("append")
def append_rows(
    name: Annotated[str, typer.Argument(help="Name of a dataset that is ready.")],
    path: Annotated[Path, typer.Argument(help="File to read, with the dataset's own columns.")],
    existing: Annotated[
        Existing, typer.Option(help="Rows whose record ids the dataset has: refuse, or skip.")
    ] = Existing.REFUSE,
    format: Annotated[str | None, typer.Option(help="Recognised if left out.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the drawn splits; the dataset's if left out.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would join; keep nothing.")
    ] = False,
) -> None:
    """Add the rows of a file of this machine to a dataset; they join it all at once.

    It is read as the dataset's own source was. Forgotten rows and people stay out and are counted.
    Live versions stay as they are; trainings that begin afterwards read the new rows too.

    Example: unlearn datasets append visits visits-of-may.csv --existing skip
    """
    from service.errors import ServiceError
    from service.ledger.database.tables import DatasetAppend
    from service.ledger.registry import appends, datasets
    from workers.jobs import append, ingest
    from workers.runtime import Runtime

    if not path.exists():
        raise _stop(f"there is no file or folder {path}")
    settings = Settings()
    runtime = Runtime.make(settings, engine=ledger.bulk_engine(settings))
    stated = {"path": path.name, "format": format, "seed": seed}
    source = {option: value for option, value in stated.items() if value is not None}
    try:
        with runtime.session() as session:
            dataset = datasets.get_ready(session, name)
            appends.require_growing(dataset)
    except ServiceError as error:
        raise _stop(error.detail) from None
    if dry_run:
        printed_datasets.append(
            name, _append_inspected(runtime, dataset, path, source, existing.value)
        )
        return
    # Before it is queued: a worker would look for the file under the data root.
    with _bar() as bar, runtime.lease(ingest.lease_key(dataset.id)) as held:
        if held is None:
            raise _stop("a worker is appending rows to it; try again when it is done")
        with runtime.session() as session:
            made = appends.create(
                session,
                dataset,
                source=source,
                existing=existing.value,
                actor="cli",
                now=runtime.now(),
            )
        task = bar.add_task(f"Reading {path.name}", total=None)
        refused = append.append(
            runtime,
            made.id,
            path.resolve(),
            held=held,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if refused:
        raise _stop(refused)
    with runtime.session() as session:
        done = session.get_one(DatasetAppend, made.id)
        printed_datasets.append(
            name, appends.describe(done, session.get_one(type(dataset), dataset.id))
        )


@app.command("list")
def list_datasets(
    after: Annotated[str | None, typer.Option(help="Continue after this name.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="How many.")] = 1_000,
    as_json: AsJson = False,
) -> None:
    """List the datasets by name."""
    from service.ledger.registry import datasets

    with ledger.session() as session:
        rows = datasets.page(session, after=after, limit=limit)
        found = [{field: getattr(row, field) for field in _LISTED} for row in rows]
    output.rows(found, _COLUMNS, json=as_json)


@app.command("show")
def show_dataset(
    name: Annotated[str, typer.Argument(help="Name of the dataset.")],
    as_json: AsJson = False,
) -> None:
    """Show a dataset: its rows, where its ids come from, and what each column was read as.

    Example: unlearn datasets show digits
    """
    from service.ledger.registry import datasets

    with ledger.session() as session:
        found = datasets.describe(session, datasets.get(session, name))
    if as_json:
        output.as_json(found)
    else:
        printed_datasets.dataset(found)


def _stated(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise _stop("--input-options must be a JSON object, such as '{\"pad\": 0}'")
    return found


def _inspected(
    runtime: Any, path: Path, source: Mapping[str, Any], tokenizer: bytes | None
) -> dict[str, Any]:
    """Return what the file would be as a dataset; stop the command if it would be refused."""
    from workers import readers
    from workers.jobs import ingest, inspections
    from workers.sources import reading

    files = None if tokenizer is None else {"tokenizer": tokenizer}
    with _bar() as bar:
        task = bar.add_task(f"Reading {path.name}", total=None)
        try:
            found = reading.inspect(
                path.resolve(),
                leave_out=ingest.filter_of(runtime, source),
                progress=lambda done, total: bar.update(task, completed=done, total=total),
                **ingest.asked(runtime, source, files=files),
            )
        except readers.ReadError as error:
            raise _stop(str(error)) from None
    return inspections.describe(found)


def _append_inspected(
    runtime: Any, dataset: Any, path: Path, source: Mapping[str, Any], existing: str
) -> dict[str, Any]:
    """Return what of the file would join the dataset; stop the command if it would be refused."""
    from workers import readers
    from workers.jobs import inspections

    with _bar() as bar:
        task = bar.add_task(f"Reading {path.name}", total=None)
        try:
            return inspections.describe_append(
                runtime,
                dataset,
                path.resolve(),
                source,
                existing=existing,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        except readers.ReadError as error:
            raise _stop(str(error)) from None


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=err,
    )
