"""Convert feature columns to the stored dtype, without loss or not at all; refuse row numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from workers.readers import parts
from workers.readers.contract import ReadError

#: Whole numbers up to the first are exact in float32; below the second they are exact in float64,
#: to which the next whole number is rounded.
_EXACT, _EXACT_DOUBLE = 1 << 24, 1 << 53

#: Least rows for which distinct whole numbers count as record ids; and consecutive whole numbers.
_DISTINCT_ROWS, _CONSECUTIVE_ROWS = 20, 5


def stored(
    values: npt.NDArray[Any], dtype: np.dtype[Any], *, first: int, name: Callable[[int], str]
) -> npt.NDArray[Any]:
    """Return ``values`` (k, …) in the stored dtype; too large for float32 becomes infinite.

    ``first`` is the row number of [0], ``name`` gives the column of a position within a row.
    Raise ``ReadError`` for a number that would be changed.
    """
    if dtype.kind == "i":
        return _integers(values, dtype, first=first, name=name)
    with np.errstate(over="ignore", invalid="ignore"):
        found = np.ascontiguousarray(values, dtype=dtype)
        wrong = _changed(values, found)
    if wrong is not None and wrong.any():
        row, position = np.argwhere(wrong.reshape(len(wrong), -1))[0]
        raise ReadError(
            "the number has more digits than float32 keeps (whole numbers are exact up to "
            "16,777,216), so different rows could become equal; scale the column (a time as days "
            "since the first one, say), give it its part, or leave it out (columns.ignored)",
            row=first + int(row),
            column=name(int(position)),
        )
    return found


def _integers(
    values: npt.NDArray[Any], dtype: np.dtype[Any], *, first: int, name: Callable[[int], str]
) -> npt.NDArray[Any]:
    limits = np.iinfo(dtype)
    fits = (values >= limits.min) & (values <= limits.max)
    if values.dtype.kind == "f":
        fits &= np.floor(values) == values
    if not fits.all():
        row, position = np.argwhere(~fits.reshape(len(fits), -1))[0]
        raise ReadError(
            f"expected a whole number of {8 * dtype.itemsize} bits",
            row=first + int(row),
            column=name(int(position)),
        )
    return np.ascontiguousarray(values, dtype=dtype)


def _changed(values: npt.NDArray[Any], found: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
    kind = values.dtype.kind
    if found.dtype.kind != "f" or kind not in "iuf" or values.dtype.itemsize <= (2, 4)[kind == "f"]:
        return None
    large = (values > _EXACT) | (values < -_EXACT)
    if not large.any():
        return None
    changed: npt.NDArray[np.bool_]
    if kind in "iu":
        changed = large & (found.astype(values.dtype) != values)
        return changed
    other = (found.astype(np.float64) != values) | (np.abs(values) >= _EXACT_DOUBLE)
    changed = large & other & np.isfinite(found)
    return changed


def are_bytes(values: npt.NDArray[Any]) -> bool:
    """Return whether these are integers that all fit uint8."""
    if values.dtype.kind == "b" or values.dtype == np.uint8 or not values.size:
        return values.dtype.kind in "iub"
    return values.dtype.kind in "iu" and bool(values.min() >= 0 and values.max() <= 255)


class Watch:
    """Detects columns that number the rows: distinct whole numbers in every row."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._open: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in names}

    def see(self, name: str, values: npt.NDArray[Any]) -> None:
        """Take the next ``values`` (k,) of a column."""
        if name not in self._open:
            return
        if _whole(values) and len(np.unique(values)) == len(values):
            self._open[name].append(values)
        else:
            del self._open[name]

    def see_all(self, names: Sequence[str], values: npt.NDArray[Any]) -> None:
        """Take the next ``values`` (k, d), a column each."""
        if not self._open:
            return
        whole = np.ones(values.shape[1], bool)
        if values.dtype.kind == "f":
            whole = (np.floor(values) == values).all(0)
        for position, name in enumerate(names):
            if name in self._open:
                self.see(name, values[:, position] if whole[position] else np.array([0.5]))

    def refuse(self) -> None:
        """Raise ``ReadError`` for the first column that numbered every row."""
        for name, pieces in self._open.items():
            if pieces and _numbers_rows(np.concatenate(pieces)):
                raise parts.numbers_rows(name)


def _whole(values: npt.NDArray[Any]) -> bool:
    if values.dtype.kind == "f":
        return bool((np.floor(values) == values).all())
    return values.dtype.kind in "iu"


def _numbers_rows(values: npt.NDArray[Any]) -> bool:
    if len(values) >= _DISTINCT_ROWS:
        return len(np.unique(values)) == len(values)
    return len(values) >= _CONSECUTIVE_ROWS and bool(
        (np.diff(values.astype(np.float64)) == 1).all()
    )
