"""Turn columns of a source into labels, splits and identifiers.

Errors name the row and column and never quote the value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from models_store.protocols import SPLITS
from workers.readers import class_words
from workers.readers.contract import Chunk, Parts, ReadError

_LABEL_LIMIT = 1 << 31


def chunk(
    x: npt.NDArray[Any],
    parts: Parts,
    pull: Callable[[str], Sequence[Any]],
    *,
    first: int,
    names: Sequence[str] | None = None,
    missing: Sequence[str] = (),
) -> Chunk:
    """Return rows ``x`` with their labels, ids and splits; ``pull`` maps a name to its values.

    ``names`` are the words of the labels, if they are words, and those that are ``missing`` none.
    """

    def ids(column: str | None) -> list[str] | None:
        # A column's name may be empty: pandas writes an unnamed index so.
        return None if column is None else texts(pull(column), first=first, column=column)

    split = parts.split
    found = pull(parts.label)
    return Chunk(
        x=x,
        labels=labels(found, first=first, column=parts.label)
        if names is None
        else words(found, names, missing, first=first, column=parts.label),
        record_ids=ids(parts.record_id),
        subject_ids=ids(parts.subject_id),
        splits=None if split is None else splits(pull(split), first=first, column=split),
    )


def labels(
    found: Sequence[Any] | npt.NDArray[Any], *, first: int, column: str
) -> npt.NDArray[np.int64]:
    """Return labels (k,) int64 of integers, whole floats or text; ``first`` is the row of [0]."""
    # A list is not converted: in an array of text every element is as wide as the longest.
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
            "the label is missing or is not an integer from 0 up; number the classes 0, 1, 2, …, "
            "or write all labels as words",
            row=first + int(np.flatnonzero(wrong)[0]),
            column=column,
        )
    return values.astype(np.int64)


def words(
    found: Sequence[Any], names: Sequence[str], missing: Sequence[str], *, first: int, column: str
) -> npt.NDArray[np.int64]:
    """Return labels (k,) int64 of words; ``first`` is the row of [0]."""
    numbers = np.array(class_words.numbered(found, names, missing), np.int64)
    if (numbers < 0).any():
        raise ReadError(
            f"the label is missing, or is none of the {len(names)} words of the classes; fill it "
            "in, correct it or drop the row",
            row=first + int(np.flatnonzero(numbers < 0)[0]),
            column=column,
        )
    return numbers


def splits(found: Sequence[Any], *, first: int, column: str) -> npt.NDArray[np.uint8]:
    """Return codes (k,) uint8 of split names."""
    codes = np.empty(len(found), np.uint8)
    for position, name in enumerate(found):
        if name not in SPLITS:
            raise ReadError(
                f"the split must be one of {', '.join(SPLITS)}",
                row=first + position,
                column=column,
            )
        codes[position] = SPLITS.index(name)
    return codes


def texts(found: Sequence[Any] | npt.NDArray[Any], *, first: int, column: str) -> list[str]:
    """Return identifiers as text; only numbers and non-empty text are accepted."""
    texts = []
    values = found.tolist() if isinstance(found, np.ndarray) else found
    for position, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            raise ReadError(
                "the identifier is missing or is neither text nor a whole number",
                row=first + position,
                column=column,
            )
        texts.append(str(value))
    return texts


def _whole(value: object) -> int:
    """Return a label's text as an integer, -1 if it is none."""
    try:
        number = float(str(value))
        return int(number) if number == int(number) and 0 <= number <= _LABEL_LIMIT else -1
    except (ValueError, OverflowError):
        return -1
