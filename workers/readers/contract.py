"""What every reader takes and gives: the columns' roles, chunks of rows, and one kind of error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


class ReadError(Exception):
    """A dataset that cannot be read; ``row`` counts from 1 and leaves a header line out.

    The message names the place and never quotes what stands there: it may be personal data.
    """

    def __init__(self, reason: str, *, row: int | None = None, column: str | None = None) -> None:
        place = [f"row {row}"] if row is not None else []
        place += [f"column {column!r}"] if column is not None else []
        text = f"{', '.join(place)}: {reason}" if place else reason
        super().__init__(text[:1].upper() + text[1:])
        self.reason, self.row, self.column = reason, row, column


@dataclass(frozen=True)
class Columns:
    """Which column plays which part; None looks for the usual names (``USUAL``).

    ``features`` lists the numeric columns to read (default: all that play no other part);
    ``image`` names a column of encoded images instead.
    """

    record_id: str | None = None
    subject_id: str | None = None
    label: str | None = None
    split: str | None = None
    features: Sequence[str] | None = None
    image: str | None = None


USUAL = {
    "record_id": ("record_id", "record_ids", "id"),
    "subject_id": ("subject_id", "subject_ids", "subject"),
    "label": ("label", "labels", "y", "target", "class", "fine_label"),
    "split": ("split", "splits"),
    "image": ("image", "img", "images"),
}


@dataclass(frozen=True)
class Options:
    """``resize`` (height, width) brings decoded images to one size; None leaves them alone."""

    columns: Columns = Columns()
    resize: tuple[int, int] | None = None


@dataclass(frozen=True)
class Chunk:
    """Some consecutive rows: ``x`` (k, *shape) uint8 or float32, ``labels`` (k,) int64.

    ``splits`` (k,) uint8 holds 0 train, 1 validation, 2 audit.
    """

    x: npt.NDArray[Any] = field(repr=False)
    labels: npt.NDArray[np.int64] = field(repr=False)
    record_ids: list[str] | None = field(default=None, repr=False)
    subject_ids: list[str] | None = field(default=None, repr=False)
    splits: npt.NDArray[np.uint8] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Source:
    """An opened file. ``rows`` is known when ``exact``, otherwise estimated for a progress bar.

    ``classes`` is what the format says, if it does. ``feature_names`` serve messages.
    ``chunks`` can be read once.
    """

    path: Path
    format: str
    rows: int
    exact: bool
    label_column: str
    chunks: Iterator[Chunk] = field(repr=False)
    classes: int | None = None
    record_column: str = "record_id"
    feature_names: Sequence[str] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Parts:
    """The columns beside the features, by their names in the file."""

    label: str
    record_id: str | None
    subject_id: str | None
    split: str | None

    @property
    def names(self) -> list[str]:
        """Those that the file has."""
        found = (self.label, self.record_id, self.subject_id, self.split)
        return [name for name in found if name is not None]


def parts(names: Sequence[str], columns: Columns) -> Parts:
    """Which of ``names`` is the label (there must be one), the ids and the split."""
    label = role(names, columns, "label")
    if label is None:
        raise ReadError(
            f"no label column: none of the {len(names)} columns is called "
            f"{', '.join(USUAL['label'])}; name the one that holds the labels"
        )
    return Parts(
        label=label,
        record_id=role(names, columns, "record_id"),
        subject_id=role(names, columns, "subject_id"),
        split=role(names, columns, "split"),
    )


def role(names: Sequence[str], columns: Columns, part: str) -> str | None:
    """The column that plays ``part``: the one asked for, which must exist, or a usual name."""
    wanted: str | None = getattr(columns, part)
    if wanted is None:
        return next((name for name in USUAL[part] if name in names), None)
    if wanted not in names:
        raise missing(wanted, len(names))
    return wanted


def missing(column: str, count: int) -> ReadError:
    """The error for a column that was asked for and is not there."""
    return ReadError(
        f"there is no such column among the {count} of this file; check the spelling, and that the "
        "file has a header where its format has one",
        column=column,
    )
