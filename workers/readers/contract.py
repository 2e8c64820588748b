"""The interface of every reader: options with columns' parts, chunks of rows, one error class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unlearning.inputs import Kind, TextReader
from unlearning.inputs.typed_table import Type


class ReadError(Exception):
    """A dataset that cannot be read; ``row`` counts from 1, without a header line.

    The message names the place and never quotes its content, which may be personal data.
    """

    def __init__(self, reason: str, *, row: int | None = None, column: str | None = None) -> None:
        place = [f"row {row}"] if row is not None else []
        place += [f"column {column!r}"] if column is not None else []
        text = f"{', '.join(place)}: {reason}" if place else reason
        super().__init__(text[:1].upper() + text[1:])
        self.reason, self.row, self.column = reason, row, column


@dataclass(frozen=True)
class Columns:
    """Which column plays which part; None finds it by the usual names (``parts.assign``).

    ``features`` lists the numeric columns to read (default: all that play no other part);
    ``image`` names a column of encoded images instead, ``text`` one of texts; ``ignored`` are left
    out.
    """

    record_id: str | None = None
    subject_id: str | None = None
    label: str | None = None
    split: str | None = None
    features: Sequence[str] | None = None
    image: str | None = None
    text: str | None = None
    ignored: Sequence[str] = ()


class Part(StrEnum):
    """The part that a column plays."""

    RECORD_ID = "record_id"
    SUBJECT_ID = "subject_id"
    LABEL = "label"
    SPLIT = "split"
    FEATURE = "feature"
    IGNORED = "ignored"


class Recognised(StrEnum):
    """Why a column plays its part."""

    DECLARED = "declared"  # the client says so
    NAME = "by name"
    POSITION = "by position"  # the format says so
    REMAINING = "remaining column"  # it plays no other part


@dataclass(frozen=True)
class Column:
    """A column of the source and its part."""

    name: str
    part: Part
    recognised: Recognised
    #: Of a feature of a typed table; ``stated``: the client says so.
    type: Type | None = None
    stated: bool = False

    def typed(self, type: Type, *, stated: bool) -> Column:
        """Return the column with the type of its values."""
        return replace(self, type=type, stated=stated)


@dataclass(frozen=True)
class Table:
    """What the client says of a typed table.

    ``types`` are those of some columns, by name; those of the others are recognised. ``missing``
    lists the texts that mean a missing value, "" an empty field or null: they are imputed. An empty
    field is refused if it is not listed. With ``standardised`` false numbers stay as they are.
    """

    types: Mapping[str, Type] = field(default_factory=dict)
    missing: Sequence[str] = ()
    standardised: bool = True


@dataclass
class Tally:
    """What was found in the columns of a typed table, counted chunk by chunk.

    ``columns``: by name, how many values were missing, how many had white space around them.
    """

    rows: int = 0
    columns: dict[str, dict[str, int]] = field(default_factory=dict)
    #: By name, the different words of the column.
    found: dict[str, set[str]] = field(default_factory=dict, repr=False)

    def add(self, column: str, *, missing: int, trimmed: int, words: Iterable[str]) -> None:
        """Add what was found in some rows of a column."""
        known = self.columns.setdefault(column, {"missing": 0, "trimmed": 0})
        known["missing"] += missing
        known["trimmed"] += trimmed
        self.found.setdefault(column, set()).update(words)

    def words(self, column: str) -> set[str]:
        """Return the different words of a column."""
        return self.found.get(column, set())


@dataclass
class Notes:
    """How the rows were read: what reading changed, counted chunk by chunk, and the layout."""

    record_ids_normalised: int = 0
    subject_ids_normalised: int = 0
    #: How the axes of an NPZ array were read (``images.Layout``).
    layout: str | None = None
    images_turned: int = 0
    images_coloured: int = 0
    #: Texts that were longer than a row; tokens of all texts, and those that are not known.
    texts_truncated: int = 0
    tokens: int = 0
    tokens_unknown: int = 0


@dataclass(frozen=True)
class Options:
    """``resize`` (height, width) brings decoded images to one size; None leaves them unchanged.

    ``kind`` is the kind of input of the rows if the client gives it, and ``texts`` what makes its
    rows of texts, if it is made of them. ``table`` is given for a typed table. ``class_names`` are
    the words of the labels, in the order of their numbers, if they are known before. With
    ``text_bytes`` chunks hold the texts as well, each of at most so many bytes.
    """

    columns: Columns = Columns()
    resize: tuple[int, int] | None = None
    kind: Kind | None = None
    texts: TextReader | None = None
    table: Table | None = None
    class_names: Sequence[str] | None = None
    text_bytes: int | None = None
    notes: Notes = field(default_factory=Notes)
    tally: Tally = field(default_factory=Tally)

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """Return the dtype that rows are stored in; None: uint8 if all values fit, else float32."""
        dtypes = () if self.kind is None else self.kind.input.dtypes
        return np.dtype(dtypes[0]) if len(dtypes) == 1 else None

    def check_type(self, kind: str, *, column: str) -> None:
        """Refuse a column whose numpy ``kind`` is not that of the rows."""
        if self.kind is None or self.dtype is None:
            return
        if self.dtype.kind in "iu" and kind not in "iu":
            raise ReadError(
                f"expected whole numbers: {self.kind.name} are stored as {self.dtype}; save the "
                "column with an integer type",
                column=column,
            )

    def watched(self, names: Sequence[str]) -> Sequence[str]:
        """Return the features to check for row numbers: none if the kind of the rows is given."""
        return names if self.kind is None else ()

    def check_axes(self, shape: Sequence[int], *, column: str | None) -> None:
        """Refuse rows whose ``shape`` does not have the axes of their kind."""
        if self.kind is not None and len(shape) != len(self.kind.input.axes):
            axes = ", ".join(self.kind.input.axes)
            raise ReadError(
                f"rows of the kind {self.kind.name} have the axes ({axes}), and these have "
                f"{len(shape)}; name the right column (columns.features), or another kind",
                column=column,
            )


@dataclass(frozen=True)
class Chunk:
    """Some consecutive rows: ``x`` (k, *shape) as stored, ``labels`` (k,) int64.

    ``splits`` (k,) uint8 holds 0 train, 1 validation, 2 audit. ``record_ids_before`` and
    ``subject_ids_before`` are the ids in the form that earlier versions kept
    (``identifiers.composed``), if any of them differs from the present form. ``readings`` are the
    numbers and truth values that words of a typed table so far can be read as, by code.
    """

    x: npt.NDArray[Any] = field(repr=False)
    labels: npt.NDArray[np.int64] = field(repr=False)
    record_ids: list[str] | None = field(default=None, repr=False)
    subject_ids: list[str] | None = field(default=None, repr=False)
    record_ids_before: list[str] | None = field(default=None, repr=False)
    subject_ids_before: list[str] | None = field(default=None, repr=False)
    splits: npt.NDArray[np.uint8] | None = field(default=None, repr=False)
    #: The texts of which the rows are made, (k, bytes) UTF-8 with zeros at the end; None: not kept.
    texts: npt.NDArray[np.uint8] | None = field(default=None, repr=False)
    readings: Mapping[int, float] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def only(self, chosen: npt.NDArray[np.bool_]) -> Chunk:
        """Return the rows where ``chosen`` (k,) is true."""
        if chosen.all():
            return self
        ids: dict[str, Any] = {
            part: None if found is None else list(compress(found, chosen))
            for part, found in (
                ("record_ids", self.record_ids),
                ("subject_ids", self.subject_ids),
                ("record_ids_before", self.record_ids_before),
                ("subject_ids_before", self.subject_ids_before),
            )
        }
        return replace(
            self,
            x=self.x[chosen],
            labels=self.labels[chosen],
            splits=None if self.splits is None else self.splits[chosen],
            texts=None if self.texts is None else self.texts[chosen],
            **ids,
        )


@dataclass(frozen=True)
class Source:
    """An opened file. ``rows`` is known when ``exact``, otherwise estimated for a progress bar.

    ``columns`` are all columns of the source, in its order; those of a typed table have types.
    ``classes`` and ``class_names`` are what the format says, if it does. ``feature_names`` are for
    messages. ``chunks`` can be read once.
    """

    path: Path
    format: str
    rows: int
    exact: bool
    label_column: str
    chunks: Iterator[Chunk] = field(repr=False)
    columns: Sequence[Column] = field(repr=False)
    classes: int | None = None
    class_names: Sequence[str] | None = None
    record_column: str | None = None
    subject_column: str | None = None
    feature_names: Sequence[str] | None = field(default=None, repr=False)
    #: Name of the whole of the rows, where features have no names of their own.
    rows_column: str = "x"
    notes: Notes = field(default_factory=Notes, repr=False)
    #: Whether the labels are words, which ``class_names`` lists.
    label_words: bool = False
    #: Of a typed table.
    tally: Tally = field(default_factory=Tally, repr=False)
    #: Facts of the rows' kind (``inputs.facts``), once the chunks were read.
    input: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Parts:
    """The columns beside the features, by their names in the file, and why they play their part."""

    label: str
    record_id: str | None
    subject_id: str | None
    split: str | None
    recognised: Mapping[str, Recognised]

    @property
    def names(self) -> list[str]:
        """Return the names of those that the file has."""
        found = (self.label, self.record_id, self.subject_id, self.split)
        return [name for name in found if name is not None]
