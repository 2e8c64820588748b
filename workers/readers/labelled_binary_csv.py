"""The tables of the membership-inference papers (Purchase100, Location30, Texas100).

There is no header; every line has the class, numbered from 1, then attributes that are 0 or 1.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from workers.readers import numbers, values
from workers.readers.contract import (
    Chunk,
    Column,
    Options,
    Part,
    ReadError,
    Recognised,
    Source,
)
from workers.readers.csv import estimate_rows, find_wrong_field, matrix, read_batches

LABEL = "label"


def open_source(path: Path, options: Options) -> Source:
    """Open the table: rows (d,) uint8 of zeros and ones, labels shifted to start at 0."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        width = len(next(csv.reader(stream), []))
    if width < 2:
        raise ReadError("expected a label and at least one attribute in every line", row=1)
    features = [f"attribute {number}" for number in range(1, width)]
    return Source(
        path=path,
        format="labelled_binary_csv",
        rows=estimate_rows(path),
        exact=False,
        label_column=LABEL,
        feature_names=features,
        columns=[
            Column(LABEL, Part.LABEL, Recognised.POSITION),
            *(Column(name, Part.FEATURE, Recognised.POSITION) for name in features),
        ],
        chunks=_chunks(path, features),
    )


def _chunks(path: Path, features: list[str]) -> Iterator[Chunk]:
    names = [LABEL, *features]
    types = {LABEL: pa.string(), **dict.fromkeys(features, pa.float64())}
    first = 1
    try:
        for batch in read_batches(path, names=names, wanted=names, types=types, header=False):
            yield _chunk(batch, features, first)
            first += batch.num_rows
    except pa.ArrowInvalid:
        # Arrow's message quotes the row; ours names only the place.
        raise find_wrong_field(path, names, features, header=False) or ReadError(
            "the file is not well-formed CSV in UTF-8"
        ) from None


def _chunk(batch: pa.RecordBatch, features: list[str], first: int) -> Chunk:
    x = matrix(batch, features, np.dtype(np.float32), first=first, watch=numbers.Watch())
    wrong = np.argwhere((x != 0) & (x != 1))
    if len(wrong):
        row, column = wrong[0]
        raise ReadError(
            "the attribute is neither 0 nor 1; give a table with other numbers a header line and "
            "read it as csv",
            row=first + int(row),
            column=features[column],
        )
    labels = values.labels(batch.column(LABEL).to_pylist(), first=first, column=LABEL)
    if (labels == 0).any():
        raise ReadError(
            "classes are numbered from 1 in this format",
            row=first + int(np.flatnonzero(labels == 0)[0]),
            column=LABEL,
        )
    return Chunk(x=x.astype(np.uint8), labels=labels - 1)
