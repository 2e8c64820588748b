"""The report of how a dataset's source was read."""

from __future__ import annotations

import dataclasses

from service.ledger.registry import datasets
from workers import readers
from workers.readers import Part

_STORED = {
    Part.RECORD_ID: "text",
    Part.SUBJECT_ID: "keyed digest",
    Part.LABEL: "int64",
    Part.SPLIT: "uint8",
    Part.IGNORED: None,
}


def describe(
    source: readers.Source, *, dtype: str, classes: int, drawn: bool, suppressed: int
) -> datasets.Report:
    """Return the report of a source that has been read to its end."""
    names = source.class_names
    return datasets.Report(
        columns=[
            {
                "name": column.name,
                "part": column.part.value,
                "stored": _STORED.get(column.part, dtype),
                "recognised": column.recognised.value,
            }
            for column in source.columns
        ],
        class_names=names if names is not None and len(names) == classes else None,
        notes={
            "format": source.format,
            "splits": "drawn" if drawn else "source",
            "suppressed": suppressed,
            **dataclasses.asdict(source.notes),
        },
    )
