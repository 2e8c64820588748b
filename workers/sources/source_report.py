"""The report of how a dataset's source was read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from service.ledger.registry import datasets
from unlearning.inputs.typed_table import Column as Encoded
from unlearning.inputs.typed_table import Options
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
    source: readers.Source,
    *,
    dtype: str,
    classes: int,
    drawn: bool,
    suppressed: int,
    encoding: Options | None = None,
    unknown: Mapping[str, int] | None = None,
) -> datasets.Report:
    """Return the report of a source that has been read to its end.

    ``encoding`` is that of a typed table, and ``unknown`` counts the words that it does not know,
    by column.
    """
    names = source.class_names
    known = {} if encoding is None else {one.name: one for one in encoding.columns}
    return datasets.Report(
        columns=[
            {
                "name": column.name,
                "part": column.part.value,
                "stored": _STORED.get(column.part, dtype),
                "recognised": column.recognised.value,
                **_typed(column, source, known.get(column.name)),
            }
            for column in source.columns
        ],
        class_names=names if names is not None and len(names) == classes else None,
        notes={
            "format": source.format,
            "splits": "drawn" if drawn else "source",
            "suppressed": suppressed,
            **dataclasses.asdict(source.notes),
            **({"unknown": dict(unknown)} if unknown else {}),
        },
    )


def _typed(column: readers.Column, source: readers.Source, known: Encoded | None) -> dict[str, Any]:
    """Return what was found in a feature of a typed table; {} of any other column."""
    if column.type is None or known is None:
        return {}
    words = column.type == "category"
    return {
        "stored": "code of a word" if words else "float64",
        "type": column.type,
        "type_recognised": "declared" if column.stated else "by its values",
        **source.tally.columns.get(column.name, {"missing": 0, "trimmed": 0}),
        "features": known.features,
        "codes": len(known.words) if words else None,
        "rare": len(source.tally.words(column.name) - set(known.words)) if words else None,
    }
