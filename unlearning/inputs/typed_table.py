"""Rows of typed columns: numbers, categories as words, booleans, and missing values.

A row is stored as it was given, with 64 bits for each column: a number or boolean as float64 (NaN:
missing), a word as its code (``code_of``; 0: missing). So the stored bytes of a row depend on that
row alone, and are recognised in whichever source the row comes again. What was learned from other
rows is in the options: which words have a feature, and how numbers are scaled.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Gt, Len

from unlearning.inputs._contract import Input

if TYPE_CHECKING:
    from torch import Tensor

Type = Literal["number", "whole", "boolean", "category"]

#: Code of a word that is missing; no word has it.
MISSING = 0

_WORD_BYTES = 8


@dataclass(frozen=True)
class Column:
    """A column, and the features that a network receives of it."""

    name: Annotated[str, Len(0, 255)]
    type: Type
    #: A number v becomes (v − centre) / scale.
    centre: float = 0.0
    scale: Annotated[float, Gt(0)] = 1.0
    #: The number in the place of a missing one.
    fill: float = 0.0
    #: The words of a category that have a feature each.
    words: Annotated[tuple[str, ...], Len(0, 1_000)] = ()
    #: Whether a further feature says that the value is missing.
    missing: bool = False
    #: Whether a further feature of a category says that the word has none.
    unknown: bool = False

    @property
    def features(self) -> int:
        """Return the number of features."""
        values = len(self.words) if self.type == "category" else 1
        return values + self.missing + self.unknown


@dataclass(frozen=True)
class Options:
    """The encoding of a dataset, learned from its training rows at ingest."""

    columns: Annotated[tuple[Column, ...], Len(1, 10_000)]


@dataclass(frozen=True)
class _Layout:
    """The options of all columns side by side, for one operation on each kind of column."""

    numbers: list[int]
    #: Their fills, centres and scales.
    of_numbers: tuple[list[float], list[float], list[float]]
    #: Positions among the numbers of those with a feature for missing ones.
    indicated: list[int]
    #: For each feature of a word: the column, and the code of the word.
    word_columns: list[int]
    codes: list[int]
    #: Columns with a feature for unknown words: the column, and its slice of the words' features.
    unknown: list[tuple[int, int, int]]


class TypedTable(Input[Options]):
    """Numbers are centred and scaled; each known word is a feature that is 0 or 1."""

    options = Options
    axes = ("columns", "halves")
    dtypes = ("int32",)
    decides = ("inputs",)
    learned = True

    def parameters(self, shape: Sequence[int], options: Options) -> dict[str, int]:
        """Return the number of features."""
        return {"inputs": sum(column.features for column in options.columns)}

    def collate(self, x: Tensor, options: Options) -> tuple[Tensor, ...]:
        """Return features (n, inputs) float32 of rows ``x`` (n, columns, 2) int32.

        In this order: the numbers, the features of missing numbers, the words (a missing one is the
        last of its column), and the features of unknown words.
        """
        layout, empty = _layout(options), x[:0]
        cells = x.contiguous().view(empty.long().dtype)[:, :, 0]
        numbers = x.contiguous().view(empty.double().dtype)[:, :, 0][:, layout.numbers]
        fills, centres, scales = map(numbers.new_tensor, layout.of_numbers)
        absent = numbers.isnan()
        words = cells[:, layout.word_columns] == cells.new_tensor(layout.codes)
        pieces = [
            (numbers.where(~absent, fills) - centres) / scales,
            absent[:, layout.indicated],
            words,
            # A missing word without a feature of its own is none that is unknown.
            *(
                (cells[:, [column]] != MISSING) & ~words[:, first:end].any(1, keepdim=True)
                for column, first, end in layout.unknown
            ),
        ]
        made = x.new_empty((len(x), sum(map(_width, pieces))), dtype=empty.float().dtype)
        done = 0
        for piece in pieces:
            made[:, done : done + _width(piece)] = piece
            done += _width(piece)
        return (made,)


def code_of(word: str) -> int:
    """Return the code of a word: 64 bits of its SHA-256, never ``MISSING``."""
    digest = hashlib.sha256(word.encode()).digest()[:_WORD_BYTES]
    return int.from_bytes(digest, "little", signed=True) or 1


@functools.lru_cache(maxsize=64)
def _layout(options: Options) -> _Layout:
    at = [i for i, one in enumerate(options.columns) if one.type != "category"]
    columns = [options.columns[i] for i in at]
    made = _Layout(
        numbers=at,
        of_numbers=(
            [one.fill for one in columns],
            [one.centre for one in columns],
            [one.scale for one in columns],
        ),
        indicated=[position for position, one in enumerate(columns) if one.missing],
        word_columns=[],
        codes=[],
        unknown=[],
    )
    for column, one in enumerate(options.columns):
        if one.type == "category":
            first = len(made.codes)
            made.codes.extend([*map(code_of, one.words), *([MISSING] if one.missing else [])])
            made.word_columns.extend([column] * (len(made.codes) - first))
            if one.unknown:
                made.unknown.append((column, first, len(made.codes)))
    return made


def _width(piece: Tensor) -> int:
    return piece.shape[1]


INPUT = TypedTable()
