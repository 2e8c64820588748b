"""What commands print: tables whose cells are never cut, and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

out = Console()


def as_json(value: Any) -> None:
    """Print a value as one JSON document, with moments in RFC 3339."""
    print(json.dumps(value, default=_plain, ensure_ascii=False, indent=2))


def table(made: Table) -> None:
    """Print every cell in full, also beyond the terminal's width: ids are copied from here."""
    wide = out.options.update(max_width=10_000)
    needed = out.measure(made, options=wide).maximum
    Console(width=max(out.width, needed)).print(made)


def rows(found: Sequence[Mapping[str, Any]], columns: Mapping[str, str], *, json: bool) -> None:
    """Print rows as JSON, or as a table of the columns {heading: member}."""
    if json:
        as_json(found)
        return
    made = Table(*columns)
    for row in found:
        made.add_row(*(_cell(row[member]) for member in columns.values()))
    table(made)


def one(found: Mapping[str, Any], *, json: bool) -> None:
    """Print one thing as JSON, or a line for each of its members."""
    if json:
        as_json(found)
        return
    made = Table.grid(padding=(0, 2))
    for member, value in found.items():
        if value not in (None, [], {}):
            made.add_row(member.replace("_", " "), _cell(value))
    table(made)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, default=_plain, ensure_ascii=False)
    return str(value)


def _plain(value: Any) -> Any:
    from service.ledger.audit import canonical

    if isinstance(value, datetime):
        return canonical.moment(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")
