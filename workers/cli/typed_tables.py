"""What ``unlearn datasets`` takes and prints of typed tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from workers.cli.errors import stop


def stated(
    typed: bool, types: Sequence[str], missing: Sequence[str], as_they_are: bool
) -> dict[str, Any] | None:
    """Return what is said of a typed table, None if nothing is."""
    if not (typed or types or missing or as_they_are):
        return None
    known = ("number", "whole", "boolean", "category")
    found = {}
    for said in types:
        column, _, kind = said.rpartition("=")
        if not column or kind not in known:
            raise stop(f"--type is COLUMN=TYPE, the type one of {', '.join(known)}")
        found[column] = kind
    return {"types": found, "missing": list(missing), "standardised": not as_they_are}


def columns(found: Sequence[Mapping[str, Any]]) -> Table:
    """Return the features of a typed table, and how they were read, as a table to print."""
    table = Table("column", "type", "recognised", "features", "rare words", "missing", "trimmed")
    for column in found:
        shown = ("name", "type", "type_recognised", "features", "rare", "missing", "trimmed")
        table.add_row(*("" if column[key] is None else str(column[key]) for key in shown))
    return table


def unknown(notes: Mapping[str, Any]) -> list[str]:
    """Return lines about words of an append that the dataset does not know."""
    return [
        f"{count} words of the column {column!r} have no feature, and are unknown to networks"
        for column, count in (notes.get("unknown") or {}).items()
    ]
