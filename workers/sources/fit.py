"""Fit a further source to a dataset: the same columns, shape, dtype and classes, or an error."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unlearning.inputs.typed_table import Options
from workers.readers import Chunk, Columns, Part, ReadError, Source, Table


@dataclass(frozen=True)
class Fit:
    """What the ingest of a dataset has decided, and every later source of it keeps.

    ``columns`` are those of its report: name, part, how it was recognised; empty if not known.
    ``shape`` is that of one row. ``encoding`` is that of a typed table.
    """

    columns: Sequence[Mapping[str, Any]]
    class_names: Sequence[str] | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    encoding: Options | None = None

    def declared(self, columns: Columns) -> Columns:
        """Return ``columns``, as the ingest declared them, with the features in its order."""
        names = [one["name"] for one in self._of(Part.FEATURE)]
        by_name = all(one["recognised"] != "by position" for one in self.columns)
        one_each = self.shape == (len(names),) or self.encoding is not None
        if columns.features or columns.image or not by_name or not one_each:
            return columns
        return dataclasses.replace(columns, features=names)

    def typed(self, table: Table | None) -> Table | None:
        """Return ``table``, as the ingest declared it, with the types that the dataset has."""
        if table is None or self.encoding is None:
            return table
        types = {column.name: column.type for column in self.encoding.columns}
        return dataclasses.replace(table, types=types)

    def check(self, source: Source) -> None:
        """Raise ``ReadError`` unless the source has the dataset's columns and classes."""
        if source.format == "image_folder":
            raise ReadError(
                "the classes of an image folder are numbered by its own directories, so those of "
                "another folder cannot be matched; ingest one folder with all images as a dataset"
            )
        if source.label_words and not self.class_names:
            raise ReadError(
                "the labels are words, and those of the dataset are numbers; bring the numbers",
                column=source.label_column,
            )
        if source.class_names != self.class_names and source.class_names and self.class_names:
            raise ReadError(
                "the source names other classes than the dataset, or in another order; bring "
                "its labels with the dataset's names in their order"
            )
        if self.columns:
            self._check_columns({one.name: one.part for one in source.columns})

    def convert(self, chunk: Chunk) -> Chunk:
        """Return the chunk in the dataset's dtype; raise ``ReadError`` for rows that do not fit."""
        if chunk.x.shape[1:] != self.shape:
            raise ReadError(
                f"the rows of the source have the shape {_text(chunk.x.shape[1:])}, and those of "
                f"the dataset {_text(self.shape)}; bring rows of one shape"
            )
        if chunk.x.dtype == self.dtype:
            return chunk
        with np.errstate(over="ignore", invalid="ignore"):
            x = chunk.x.astype(self.dtype)
        if not np.array_equal(x, chunk.x):
            raise ReadError(
                f"the dataset stores {self.dtype}, and the source has numbers that this type "
                f"cannot hold, so it was read as {chunk.x.dtype}; bring the columns in the units "
                "and types of the dataset's own source"
            )
        return dataclasses.replace(chunk, x=x)

    def _check_columns(self, theirs: Mapping[str, Part]) -> None:
        for one in self.columns:
            part = Part(one["part"])
            if part not in (Part.IGNORED, Part.SPLIT) and theirs.get(one["name"]) != part:
                raise ReadError(
                    f"the dataset has this column as {_SAY[part]}, and the source has it not, or "
                    "for something else; bring the columns of the dataset's own source",
                    column=one["name"],
                )
        ours = {one["name"] for one in self.columns}
        for name, part in theirs.items():
            if name not in ours and part != Part.SPLIT:
                raise ReadError(
                    "the dataset has no such column; leave it out of the source, or ingest the "
                    "data under a new name",
                    column=name,
                )

    def _of(self, part: Part) -> list[Mapping[str, Any]]:
        return [one for one in self.columns if one["part"] == part]


_SAY = {
    Part.RECORD_ID: "its record ids",
    Part.SUBJECT_ID: "its subject ids",
    Part.LABEL: "its labels",
    Part.FEATURE: "a feature",
}


def _text(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))
