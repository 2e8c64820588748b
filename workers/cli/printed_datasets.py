"""Datasets and what joined them, printed in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table

from workers.cli import texts, typed_tables

out = Console()


def append(name: str, found: Mapping[str, Any]) -> None:
    """Print in words what joined a dataset, or would, and what was left out."""
    splits = ", ".join(f"{rows} {split}" for split, rows in (found["splits"] or {}).items())
    notes = found["notes"] or {}
    revision = f"; revision {found['revision']}" if found.get("revision") is not None else ""
    lines = [f"{name}: {found['rows']} of {notes['read']} rows join; {splits}{revision}"]
    lines += [f"{notes[key]} {what}" for key, what in _COUNTED.items() if notes.get(key)]
    lines += typed_tables.unknown(notes)
    for line in lines:
        out.print(line, highlight=False, markup=False, soft_wrap=True)


def dataset(found: Mapping[str, Any]) -> None:
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
    lines += texts.tokens(found)
    if notes.get("layout"):
        lines.append(f"layout: {_LAYOUTS[notes['layout']]}")
    lines += [f"{notes[key]} {what}" for key, what in _COUNTED.items() if notes.get(key)]
    return lines


def _scaled(found: Mapping[str, Any]) -> str:
    scale = found["scale"]
    if scale is None:
        features = found["input"]["parameters"].get("inputs")
        return "they take no transform" + (f"; {features} features" if features else "")
    return f"models multiply them by {scale:.4g} unless their transform says otherwise"


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
