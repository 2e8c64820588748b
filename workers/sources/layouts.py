"""Layouts: in which columns, order and types a dataset stores its rows.

A row is recognised by a digest of its stored bytes. The same row of a table is stored as other
bytes where the columns come in another order, beside further columns, or with other types: whether
a table is a typed one is declared, and the type of a column follows from all of its values. So the
rows of a source are brought into the layout of each dataset that had rows forgotten.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from service.ledger.database.tables import Dataset
from service.ledger.registry.datasets import Report
from unlearning.inputs import typed_table
from unlearning.inputs.typed_table import Type
from workers.readers import Part, Source
from workers.sources import encoding, ways
from workers.sources.ways import Way

#: Rows in another layout: the places that they have in the source's chunk, and the rows.
Found = tuple[npt.NDArray[np.int64], npt.NDArray[Any]]


@dataclass(frozen=True)
class Layout:
    """The names of a table's columns in the order in which they are stored.

    ``types`` are given of a typed table, whose rows are cells of 64 bits, (columns, 2) int32; rows
    of another table are numbers, (columns,). ``words``: those that are known of each column.
    """

    names: tuple[str, ...]
    types: tuple[Type, ...] | None = None
    words: tuple[tuple[str, ...], ...] = ()

    def fits(self, shape: Sequence[int]) -> bool:
        """Return whether rows of this ``shape`` can be in the layout."""
        columns = len(self.names)
        return tuple(shape) == ((columns,) if self.types is None else (columns, 2))


def of_source(source: Source) -> Layout | None:
    """Return the layout of a source's chunks; None if its features have no names of their own."""
    if source.feature_names is None:
        return None
    types = {column.name: column.type for column in source.columns if column.type is not None}
    return _layout(source.feature_names, types)


def of_dataset(dataset: Dataset, report: Report | None) -> Layout | None:
    """Return the layout of a dataset's rows, also of a removed one; None if it has none.

    ``report`` says how its source was read.
    """
    if report is None or dataset.input is None or dataset.shape is None:
        return None
    features = {one["name"]: one for one in report.columns if one["part"] == Part.FEATURE}
    declared = (dataset.source.get("columns") or {}).get("features")
    names = declared or list(features)
    if not features.keys() >= set(names):
        return None
    typed = dataset.input["name"] == encoding.KIND
    found = _layout(names, {name: features[name]["type"] for name in names} if typed else {})
    # Of a removed dataset no words are left.
    encoded = dataset.input["options"].get("columns", ()) if typed else ()
    words = {one["name"]: tuple(one["words"]) for one in encoded}
    found = replace(found, words=tuple(words.get(name, ()) for name in names))
    return found if found.fits(dataset.shape) else None


def _layout(names: Sequence[str], types: Mapping[str, Type]) -> Layout:
    return Layout(tuple(names), tuple(types[name] for name in names) if types else None)


def translated(
    x: npt.NDArray[Any],
    mine: Layout,
    theirs: Layout,
    readings: Mapping[int, float],
    *,
    likely: Collection[int] = (),
) -> Iterator[Found]:
    """Yield those of the rows ``x`` that can be in the layout ``theirs``, in that layout.

    Nothing is yielded if it is the same one, or has columns that the rows have not. ``readings``
    are the numbers and truth values that words can be read as, by code. The rows at the places
    ``likely`` are sought with each column written in its own way, too.
    """
    same = (mine.names, mine.types) == (theirs.names, theirs.types)
    if same or not set(theirs.names) <= set(mine.names):
        return
    at = [mine.names.index(name) for name in theirs.names]
    if mine.types is None:
        chosen = x[:, at]
        if theirs.types is None:
            yield np.arange(len(x)), chosen
            return
        types: Sequence[Type] = ["number"] * len(at)
        for numbers in _as_float64(chosen):
            yield from _cells(numbers.view(np.int64), types, theirs, readings, likely)
        return
    cells = np.ascontiguousarray(x).view(np.int64)[:, at, 0]
    types = [mine.types[i] for i in at]
    if theirs.types is not None:
        yield from _cells(cells, types, theirs, readings, likely)
        return
    numbers = np.stack(
        [
            _numbers(cells[:, i], readings) if type == "category" else _floats(cells[:, i])
            for i, type in enumerate(types)
        ],
        axis=1,
    )
    places = np.flatnonzero(np.isfinite(numbers).all(axis=1))
    with np.errstate(over="ignore"):
        yield places, numbers[places].astype(np.float32)


def _as_float64(x: npt.NDArray[Any]) -> Iterator[npt.NDArray[np.float64]]:
    """Yield numbers as a typed table may have them: exactly, and by their shortest decimals.

    A number that was text, such as 0.1, was rounded to ``x``; its decimals tell what it was.
    """
    exact = x.astype(np.float64)
    yield exact + 0.0
    if x.dtype == np.float32:
        decimals, place = np.unique(x, return_inverse=True)
        shortest = np.array([float(str(one)) for one in decimals])
        found = shortest[place].reshape(x.shape) + 0.0
        if not np.array_equal(found, exact):
            yield found


def _cells(
    cells: npt.NDArray[np.int64],
    mine: Sequence[Type],
    theirs: Layout,
    readings: Mapping[int, float],
    likely: Collection[int],
) -> Iterator[Found]:
    """Yield rows of cells, some of whose columns have other types in the layout ``theirs``.

    Rows with numbers or truth values in place of words come in each way in which a source may have
    written them: numbers with a point or with as many decimals each, truth values as yes and no.
    """
    assert theirs.types is not None
    found, possible = cells.copy(), np.ones(len(cells), np.bool_)
    words = {}
    for i, (type, other) in enumerate(zip(mine, theirs.types, strict=True)):
        if (type == "category") == (other == "category"):
            continue
        if other == "category":
            words[i] = theirs.words[i] if theirs.words else ()
            continue
        numbers = _numbers(cells[:, i], readings)
        possible &= (cells[:, i] == typed_table.MISSING) | ~np.isnan(numbers)
        found[:, i] = numbers.view(np.int64)
    places = np.flatnonzero(possible)
    some = places[np.isin(places, list(likely))]
    codes = functools.cache(lambda i, way: _codes(cells[:, i], mine[i], way))
    alike = list(ways.alike([mine[i] for i in words]))
    own = ways.own([(mine[i], known) for i, known in words.items()]) if len(some) else ()
    for here, written in ((places, alike), (some, set(own).difference(alike))):
        for each in written:
            for i, way in zip(words, each, strict=True):
                found[:, i] = codes(i, way)
            yield here, _rows(found[here])


def _floats(cells: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return np.ascontiguousarray(cells).view(np.float64)


def _numbers(
    cells: npt.NDArray[np.int64], readings: Mapping[int, float]
) -> npt.NDArray[np.float64]:
    """Return what the words of a category can be read as, NaN where they cannot."""
    codes, place = np.unique(cells, return_inverse=True)
    found = np.array([readings.get(code, np.nan) for code in codes.tolist()])
    return found[place]


def _codes(cells: npt.NDArray[np.int64], kind: Type, way: Way) -> npt.NDArray[np.int64]:
    """Return the codes of numbers or truth values as words."""
    distinct, place = np.unique(_floats(cells), return_inverse=True)
    there = distinct[~np.isnan(distinct)].tolist()
    codes = [typed_table.code_of(word) for word in ways.written(there, kind, way)]
    codes += [typed_table.MISSING] * (len(distinct) - len(there))  # NaN comes last
    return np.array(codes, np.int64)[place]


def _rows(cells: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Return cells (k, columns) int64 as they are stored, (k, columns, 2) int32."""
    found = np.ascontiguousarray(cells)
    return found.view(np.int32).reshape(*found.shape, 2)
