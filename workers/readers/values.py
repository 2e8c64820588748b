"""Columns of values that came from outside, turned into labels, splits and identifiers.

Each function says which row and column is wrong, and never what stands there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from models_store import arrays
from service.ledger import identifiers
from workers.readers.contract import Chunk, Parts, ReadError

_LABEL_LIMIT = 1 << 31


def chunk(
    x: npt.NDArray[Any], parts: Parts, pull: Callable[[str], Sequence[Any]], *, first: int
) -> Chunk:
    """Rows ``x`` with their labels, ids and splits; ``pull`` gives a column's values by name."""
    record, subject, split = parts.record_id, parts.subject_id, parts.split
    return Chunk(
        x=x,
        labels=labels(pull(parts.label), first=first, column=parts.label),
        record_ids=texts(pull(record), first=first, column=record) if record else None,
        subject_ids=texts(pull(subject), first=first, column=subject) if subject else None,
        splits=splits(pull(split), first=first, column=split) if split else None,
    )


def labels(
    found: Sequence[Any] | npt.NDArray[Any], *, first: int, column: str
) -> npt.NDArray[np.int64]:
    """Labels (k,) int64 from integers, whole floats or their text; ``first`` is the row of [0]."""
    # A list stays one: an array of text is as wide as its longest element in every row.
    values = found if isinstance(found, np.ndarray) else np.empty(0, object)
    if values.dtype.kind in "iub":
        # Compared before the cast: a large unsigned number must not turn negative.
        wrong = (values > _LABEL_LIMIT) | (values < 0)
    elif values.dtype.kind == "f":
        wrong = ~((values >= 0) & (values <= _LABEL_LIMIT) & (np.floor(values) == values))
    else:
        values = np.array([_whole(value) for value in found], dtype=np.int64)
        wrong = values < 0
    if wrong.any():
        raise ReadError(
            "the label is missing or is not an integer from 0 up; number the classes 0, 1, 2, …",
            row=first + int(np.flatnonzero(wrong)[0]),
            column=column,
        )
    return values.astype(np.int64)


def splits(found: Sequence[Any], *, first: int, column: str) -> npt.NDArray[np.uint8]:
    """Codes (k,) uint8 of split names."""
    codes = np.empty(len(found), np.uint8)
    for position, name in enumerate(found):
        if name not in arrays.SPLITS:
            raise ReadError(
                f"the split must be one of {', '.join(arrays.SPLITS)}",
                row=first + position,
                column=column,
            )
        codes[position] = arrays.SPLITS.index(name)
    return codes


def texts(found: Sequence[Any] | npt.NDArray[Any], *, first: int, column: str) -> list[str]:
    """Identifiers in their normalised form; numbers and text are taken, anything else is not."""
    texts = []
    values = found.tolist() if isinstance(found, np.ndarray) else found
    for position, value in enumerate(values):
        whole = isinstance(value, int) and not isinstance(value, bool)
        text = identifiers.normalise(value) if isinstance(value, str) else str(value) * whole
        if not text:
            raise ReadError(
                "the identifier is missing or is neither text nor a whole number",
                row=first + position,
                column=column,
            )
        texts.append(text)
    return texts


def as_stored(values: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """``values`` in the dtype of the store; what float32 cannot hold becomes infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(values, dtype=dtype)


def are_bytes(values: npt.NDArray[Any]) -> bool:
    """Whether these are integers that all fit uint8."""
    if values.dtype.kind == "b" or values.dtype == np.uint8 or not values.size:
        return values.dtype.kind in "iub"
    return values.dtype.kind in "iu" and bool(values.min() >= 0 and values.max() <= 255)


def _whole(value: object) -> int:
    """A label's text as an integer, -1 where it is none."""
    try:
        number = float(str(value))
        return int(number) if number == int(number) and 0 <= number <= _LABEL_LIMIT else -1
    except (ValueError, OverflowError):
        return -1
