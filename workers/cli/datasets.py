"""``unlearn datasets``: bring training data in, and show how it was read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from service.ledger.database.identifiers import Case
from service.settings import Settings
from workers.cli import ledger, output, typed_tables, withdrawals
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
    seed: Annotated[int, typer.Option(help="Seed of the drawn splits.")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what it would be read as; keep nothing.")
    ] = False,
) -> None:
    """Ingest a file of this machine.

    Example: unlearn datasets add digits digits.csv --record-id id --subject-id writer

    Example: unlearn datasets add census census.csv --label income --missing '?'
    """
    import re

    from service.errors import ServiceError
    from service.ledger.registry import datasets
    from workers.jobs import ingest
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
        "features": feature,
        "ignored": ignore,
    }
    source = {
        "path": path.name,
        "format": format,
        "columns": {role: column for role, column in columns.items() if column is not None},
        "classes": classes,
        "id_case": id_case,
        "input": None if input is None else {"name": input, "options": _stated(input_options)},
        "table": typed_tables.stated(typed, type or [], missing or [], as_they_are),
        "seed": seed,
    }
    if dry_run:
        _print({"name": name, "status": "ready", **_inspected(runtime, path, source)})
        return
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
        _print(datasets.describe(session, datasets.get(session, name)))


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
        _print_append(name, _append_inspected(runtime, dataset, path, source, existing.value))
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
        _print_append(name, appends.describe(done, session.get_one(type(dataset), dataset.id)))


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
        _print(found)


def _stated(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise _stop("--input-options must be a JSON object, such as '{\"pad\": 0}'")
    return found


def _scaled(found: Mapping[str, Any]) -> str:
    scale = found["scale"]
    if scale is None:
        features = found["input"]["parameters"].get("inputs")
        return "they take no transform" + (f"; {features} features" if features else "")
    return f"models multiply them by {scale:.4g} unless their transform says otherwise"


def _inspected(runtime: Any, path: Path, source: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the file would be as a dataset; stop the command if it would be refused."""
    from workers import readers
    from workers.jobs import ingest, inspections
    from workers.sources import reading

    with _bar() as bar:
        task = bar.add_task(f"Reading {path.name}", total=None)
        try:
            found = reading.inspect(
                path.resolve(),
                leave_out=ingest.sieve_of(runtime, source),
                progress=lambda done, total: bar.update(task, completed=done, total=total),
                **ingest.asked(source),
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


def _print_append(name: str, found: Mapping[str, Any]) -> None:
    """Print in words what joined a dataset, or would, and what was left out."""
    splits = ", ".join(f"{rows} {split}" for split, rows in (found["splits"] or {}).items())
    notes = found["notes"] or {}
    revision = f"; revision {found['revision']}" if found.get("revision") is not None else ""
    lines = [f"{name}: {found['rows']} of {notes['read']} rows join; {splits}{revision}"]
    lines += [f"{notes[key]} {what}" for key, what in _COUNTED.items() if notes.get(key)]
    lines += typed_tables.unknown(notes)
    for line in lines:
        out.print(line, highlight=False, markup=False, soft_wrap=True)


def _print(found: Mapping[str, Any]) -> None:
    """Print a dataset in words, its columns as a table."""
    for line in _lines(found):
        out.print(line, highlight=False, markup=False, soft_wrap=True)
    if found["columns"]:
        table = Table("column", "part", "stored as", "recognised")
        for same in _runs(found["columns"]):
            table.add_row(*same)
        out.print(table, markup=False)
    typed = [column for column in found["columns"] if "type" in column]
    if typed:
        out.print(typed_tables.columns(typed), markup=False)


def _lines(found: Mapping[str, Any]) -> list[str]:
    if found["status"] != "ready":
        return [f"{found['name']}: {found['status']}", *filter(None, [found["error"]])]
    shape = "×".join(str(size) for size in found["shape"] or ())
    splits = ", ".join(f"{rows} {split}" for split, rows in found["splits"].items())
    ids, notes = found["ids"], found["notes"]
    lines = [
        f"{found['name']}: {found['rows']} rows of {shape} {found['dtype']}, "
        f"{found['classes']} classes; {splits}",
        f"record ids: {_ORIGINS[ids['record_id']]}; subject ids: {_ORIGINS[ids['subject_id']]}",
        f"rows are {found['input']['name']}; " + _scaled(found),
    ]
    if found["class_names"]:
        lines.append(f"classes: {', '.join(found['class_names'])}")
    if notes.get("layout"):
        lines.append(f"layout: {_LAYOUTS[notes['layout']]}")
    lines += [f"{notes[key]} {what}" for key, what in _COUNTED.items() if notes.get(key)]
    return lines


_ORIGINS = {
    "source": "from the source",
    "generated": "generated",
    "absent": "none",
    None: "not known",
}

_LAYOUTS = {
    "table": "a table (n, d)",
    "gray": "gray images (n, height, width)",
    "channels_first": "images (n, channels, height, width)",
    "channels_last": "images (n, height, width, channels)",
}

_COUNTED = {
    "record_ids_normalised": "record ids were normalised (white space, dashes, Unicode form)",
    "subject_ids_normalised": "subject ids were normalised (white space, dashes, Unicode form)",
    "images_turned": "images were turned as their EXIF orientation says",
    "images_coloured": "gray images among colour ones were made colour",
    "suppressed": "rows were left out because they were forgotten before",
    "existing": "rows were left out because the dataset has their record ids",
    "of_forgotten_classes": "rows were left out because their class was asked to be forgotten",
}


def _runs(columns: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str, str]]:
    """Return the rows of the table, with equal neighbouring columns merged into one row."""
    rows = []
    for alike, group in groupby(
        columns, key=lambda one: (one["part"], one["stored"] or "not kept", one["recognised"])
    ):
        names = [one["name"] for one in group]
        shown = (
            names if len(names) <= 3 else [f"{names[0]!r} to {names[-1]!r}, {len(names)} columns"]
        )
        rows += [(name, *alike) for name in shown]
    return rows


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=err,
    )
