"""Columns of typed tables: recognise their types, and turn their values into stored cells.

A cell has 64 bits (``unlearning.inputs.typed_table``): the same value has the same cell in every
source, whatever its format and its other rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from unlearning.inputs import typed_table
from unlearning.inputs.typed_table import Type
from workers.readers import booleans, numbers, parts
from workers.readers.class_words import is_number, tidy
from workers.readers.contract import Column, Options, Part, ReadError, Table

#: Words of a column beyond which it is taken for an id or a text.
MOST_WORDS = 1_000

#: Least rows for which a word of its own in every row counts as an id.
_DISTINCT_ROWS = 20
#: Whole numbers below this are exact in float64.
_EXACT = 1 << 53
_LONGEST_WORD = _LONGEST_NAME = 255
_MOST_COLUMNS = 10_000


def check(table: Table, features: Sequence[str], options: Options) -> None:
    """Refuse a declaration that does not fit the columns."""
    if options.kind is not None:
        raise ReadError("a typed table has its own kind of input; leave one of the two out")
    if len(features) > _MOST_COLUMNS:
        raise ReadError(f"a typed table has at most {_MOST_COLUMNS:,} features")
    for name in features:
        if len(name) > _LONGEST_NAME:
            raise ReadError(
                f"the name of a column has at most {_LONGEST_NAME} characters; shorten it",
                column=name[:_LONGEST_NAME],
            )
    for name in table.types:
        if name not in features:
            raise ReadError(
                "the column has a declared type and is no feature of this source; check the "
                "spelling (table.types)",
                column=name,
            )


def recognise(
    batches: Iterable[pa.RecordBatch], features: Sequence[str], table: Table
) -> dict[str, Type]:
    """Return the type of each feature: the declared one, or that of all values of the source.

    A column of whole numbers is ``whole``, one of numbers ``number``, one of true and false (or yes
    and no, or 1 and 0 beside them) ``boolean``, any other ``category``. The batches are not read if
    all are declared.
    """
    open_to = {name: _Candidates() for name in features if name not in table.types}
    rows = 0
    if open_to:
        for batch in batches:
            rows += batch.num_rows
            for name, candidates in open_to.items():
                candidates.see(_plain(batch.column(name)), table)
            if all(one.settled for one in open_to.values()):
                break
    if not rows:  # a source without rows has an error of its own
        return {name: table.types.get(name, "category") for name in features}
    return {name: table.types.get(name) or open_to[name].found(column=name) for name in features}


def join(found: Sequence[Mapping[str, Type]]) -> dict[str, Type]:
    """Return the type of each column over several files.

    Raise ``ReadError`` for one of booleans in some files and numbers in others: a number may be
    another word for true, or a word of a category.
    """
    return {name: _joined({types[name] for types in found}, column=name) for name in found[0]}


def _joined(types: set[Type], *, column: str) -> Type:
    if types <= {"whole", "number"}:
        return "number" if "number" in types else "whole"
    if "boolean" in types and types & {"whole", "number"} and "category" not in types:
        raise ReadError(
            "true and false in some files and numbers in others; say what the column holds "
            "(table.types)",
            column=column,
        )
    return types.pop() if len(types) == 1 else "category"


def describe(columns: Sequence[Column], types: Mapping[str, Type], table: Table) -> list[Column]:
    """Return the columns with the types of the features."""
    return [
        one.typed(types[one.name], stated=one.name in table.types)
        if one.part == Part.FEATURE
        else one
        for one in columns
    ]


class Reader:
    """Turns batches into rows of cells, and counts what it changed into the source's tally."""

    def __init__(self, types: Mapping[str, Type], options: Options, watched: Sequence[str]) -> None:
        table = options.table or Table()
        self._tally = options.tally
        # Whoever says what a column holds knows that it is no id.
        self._watched = [name for name in watched if name not in table.types]
        self._watch = numbers.Watch(
            [name for name in self._watched if types[name] in ("whole", "number")]
        )
        self._columns = {name: _Cells(name, one, table) for name, one in types.items()}
        #: Numbers and truth values that words can be read as, by code (``Chunk.readings``).
        self.readings: dict[int, float] = {}

    def rows(self, batch: pa.RecordBatch, *, first: int) -> npt.NDArray[np.int32]:
        """Return the rows of a batch, (k, columns, 2) int32; ``first`` is the row of [0]."""
        cells = np.empty((batch.num_rows, len(self._columns)), np.int64)
        for position, (name, column) in enumerate(self._columns.items()):
            here = column.of(_plain(batch.column(name)), first=first)
            self._tally.add(name, missing=here.missing, trimmed=here.trimmed, words=here.words)
            if len(self._tally.words(name)) > MOST_WORDS:
                raise ReadError(
                    f"more than {MOST_WORDS:,} different words, so they are texts or ids and no "
                    "categories; give the column its part, or leave it out (columns.ignored)",
                    column=name,
                )
            if column.type in ("whole", "number"):
                self._watch.see(name, here.cells.view(np.float64))
            cells[:, position] = here.cells
            self.readings |= column.readings
        self._tally.rows += batch.num_rows
        return cells.view(np.int32).reshape(batch.num_rows, len(self._columns), 2)

    def finish(self) -> None:
        """Refuse columns that number the rows, in numbers or in words."""
        self._watch.refuse()
        rows = self._tally.rows
        for name in self._watched:
            if rows >= _DISTINCT_ROWS and len(self._tally.words(name)) == rows:
                raise parts.numbers_rows(name)


class _Candidates:
    """The types that a column can still have."""

    def __init__(self) -> None:
        self._open: set[Type] = {"whole", "number", "boolean"}
        self._seen = False

    @property
    def settled(self) -> bool:
        return not self._open

    def see(self, values: pa.Array, table: Table) -> None:
        if self.settled:
            return
        if pa.types.is_boolean(values.type):
            self._keep({"boolean"}, values)
            return
        if _is_text(values.type):
            text, _ = _trimmed(values)
            there = text.filter(pa.array(~_absent(text, table.missing)))
        else:
            there = values.filter(pa.array(~_absent(values, table.missing)))
        if not len(there):
            return
        found: set[Type] = set()
        numbers = _as_numbers(there)
        if numbers is not None:
            whole = bool((np.floor(numbers) == numbers).all())
            found = {"number", "whole"} if whole else {"number"}
        if _is_text(there.type) and not np.isnan(booleans.of_words(there)).any():
            found.add("boolean")
        self._keep(found, there)

    def _keep(self, found: set[Type], values: pa.Array) -> None:
        if len(values) - values.null_count:
            self._open &= found
            self._seen = True

    def found(self, *, column: str) -> Type:
        if not self._seen:
            raise ReadError(
                "the column has no value in any row; leave it out (columns.ignored), or say what "
                "it holds (table.types)",
                column=column,
            )
        order: tuple[Type, ...] = ("whole", "number", "boolean")
        return next((one for one in order if one in self._open), "category")


@dataclass(frozen=True)
class _Read:
    """The cells of a batch's column, (k,) int64, and what was found on the way."""

    cells: npt.NDArray[np.int64]
    missing: int
    trimmed: int
    words: Sequence[str] = ()


class _Cells:
    """The cells of one column."""

    def __init__(self, name: str, type: Type, table: Table) -> None:
        self.name, self.type, self._table = name, type, table
        self._codes: dict[str, int] = {}
        self.readings: dict[int, float] = {}

    def of(self, values: pa.Array, *, first: int) -> _Read:
        text, trimmed = _trimmed(values) if _is_text(values.type) else (values, 0)
        absent = self._missing(text, first)
        if self.type == "category":
            return self._words(text, absent, trimmed, first)
        found = np.full(len(text), np.nan)
        there = text.filter(pa.array(~absent)) if absent.any() else text
        if self.type == "boolean":
            found[~absent] = self._booleans(there, ~absent, first)
        else:
            found[~absent] = self._numbers(there, ~absent, first)
        found += 0.0  # −0 and 0 are one number
        found[absent] = np.nan
        return _Read(found.view(np.int64), int(absent.sum()), trimmed)

    def _missing(self, values: pa.Array, first: int) -> npt.NDArray[np.bool_]:
        """Return which values are missing, (k,) bool; refuse those that the source does not say."""
        absent = np.asarray(_absent(values, self._table.missing))
        if "" not in self._table.missing and absent.any():
            empty = values.is_null()
            if _is_text(values.type):
                empty = pc.or_(empty, pc.equal(values, "").fill_null(True))
            self._refuse(
                np.asarray(empty),
                first,
                'the value is missing; fill it in, drop the row, or add "" to what means missing '
                "(table.missing) to have it imputed",
            )
        return absent

    def _words(
        self, values: pa.Array, absent: npt.NDArray[np.bool_], trimmed: int, first: int
    ) -> _Read:
        text = values if _is_text(values.type) else values.cast(pa.string())
        packed = text.dictionary_encode()
        words = [None if one is None else tidy(one) for one in packed.dictionary.to_pylist()]
        places = packed.indices.fill_null(0).to_numpy(zero_copy_only=False)
        used = [words[place] for place in np.unique(places[~absent]).tolist()]
        if any(word and (len(word) > _LONGEST_WORD or "\0" in word) for word in used):
            raise ReadError(
                f"a word of more than {_LONGEST_WORD} characters, or with NUL in it, is a text and "
                "no category; leave the column out (columns.ignored)",
                column=self.name,
            )
        codes = np.array([0 if word is None else self._code(word) for word in words], np.int64)
        cells = codes[places] if len(codes) else np.zeros(len(text), np.int64)
        cells[absent] = typed_table.MISSING
        return _Read(cells, int(absent.sum()), trimmed, [w for w in used if w is not None])

    def _code(self, word: str) -> int:
        if word not in self._codes:
            self._codes[word] = typed_table.code_of(word)
            reading = _reading(word)
            if reading is not None:
                self.readings[self._codes[word]] = reading
        return self._codes[word]

    def _booleans(
        self, values: pa.Array, where: npt.NDArray[np.bool_], first: int
    ) -> npt.NDArray[np.float64]:
        if pa.types.is_boolean(values.type):
            return np.asarray(values.to_numpy(zero_copy_only=False), np.float64)
        if _is_text(values.type):
            found = booleans.of_words(values)
        else:
            given = np.asarray(values.to_numpy(zero_copy_only=False), np.float64)
            found = np.where((given == 0) | (given == 1), given, np.nan)
        wrong = np.zeros(len(where), np.bool_)
        wrong[where] = np.isnan(found)
        self._refuse(wrong, first, "expected true or false (or yes or no, or 1 or 0)")
        return found

    def _numbers(
        self, values: pa.Array, where: npt.NDArray[np.bool_], first: int
    ) -> npt.NDArray[np.float64]:
        found = _as_numbers(values)
        wrong = np.zeros(len(where), np.bool_)
        if found is None:
            wrong[where] = [_as_numbers(values[i : i + 1]) is None for i in range(len(values))]
            self._refuse(
                wrong,
                first,
                "not a number; correct it, say that it means a missing value (table.missing), or "
                "that the column holds categories (table.types)",
            )
            raise ReadError("not a column of numbers", column=self.name)
        wrong[where] = ~np.isfinite(found)
        self._refuse(
            wrong, first, "the number is not finite; correct it, or list its text in table.missing"
        )
        wrong[where] = np.abs(found) >= _EXACT
        self._refuse(
            wrong,
            first,
            "the number has more digits than are kept exactly (whole numbers up to "
            f"{_EXACT - 1:,}); scale the column, give it its part, or leave it out "
            "(columns.ignored)",
        )
        if self.type == "whole":
            wrong[where] = np.floor(found) != found
            self._refuse(wrong, first, "expected a whole number")
        return found

    def _refuse(self, wrong: npt.NDArray[np.bool_], first: int, reason: str) -> None:
        if wrong.any():
            row = first + int(np.flatnonzero(wrong)[0])
            raise ReadError(reason, row=row, column=self.name)


def _reading(word: str) -> float | None:
    """Return the number or truth value of a word, None if it has none."""
    truth = booleans.value(word)
    if truth is not None:
        return float(truth)
    number = float(word) if is_number(word) else math.nan
    return number + 0.0 if math.isfinite(number) else None


def _plain(values: pa.Array) -> pa.Array:
    """Return the values without a dictionary; refuse types of which there are no cells."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_decimal(values.type) or pa.types.is_float16(values.type):
        values = values.cast(pa.float64())
    if pa.types.is_floating(values.type):
        absent = values.is_null(nan_is_null=True)
        values = pc.if_else(absent, pa.scalar(None, values.type), values)
    return values


def holds_values(kind: pa.DataType) -> bool:
    """Return whether columns of this type hold numbers, words or booleans."""
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    known = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean)
    return _is_text(inner) or any(is_kind(inner) for is_kind in known)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _trimmed(values: pa.Array) -> tuple[pa.Array, int]:
    """Return texts without white space around them, and how many had some."""
    text = pc.utf8_trim_whitespace(values)
    changed = pc.sum(pc.not_equal(text, values)).as_py()
    return text, int(changed or 0)


def _absent(values: pa.Array, missing: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Return which values are null, empty, or mean missing, (k,) bool."""
    absent = values.is_null()
    if _is_text(values.type):
        words = pa.array(["", *map(tidy, missing)], values.type)
        absent = pc.or_(absent, pc.is_in(values, words))
    elif not pa.types.is_boolean(values.type):
        numbers = pa.array([float(one) for one in missing if is_number(one)], pa.float64())
        found = pc.cast(values, pa.float64(), safe=False)
        absent = pc.or_(absent, pc.is_in(found, numbers))
    return np.asarray(absent)


def _as_numbers(values: pa.Array) -> npt.NDArray[np.float64] | None:
    """Return the values as float64, None if one is no number; whole numbers must stay whole."""
    if pa.types.is_boolean(values.type):
        return None
    try:
        found: npt.NDArray[Any] = pc.cast(values, pa.float64(), safe=False).to_numpy(
            zero_copy_only=False
        )
    except pa.ArrowInvalid:
        return None
    return np.array(found, np.float64)
