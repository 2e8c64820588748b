"""Learn how a typed table is encoded, from its training rows.

The encoding is a statistic of rows, kept for as long as the dataset, also after some of the rows
are forgotten. So it holds little of any one of them: a word has a feature only if at least
``FLOOR`` people (rows, if the source does not say whose they are) of the training rows have it, and
so has the absence of a value; centres and scales are rounded, and of fewer than ``FLOOR`` people
there are none.

Rows are counted and summed in blocks that do not depend on the chunks in which they are read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from unlearning import inputs
from unlearning.inputs import typed_table
from unlearning.inputs.typed_table import MISSING, Column, Options, Type
from workers.readers import Chunk, ReadError

#: Least people of whom something is kept; as few as have their figures withheld elsewhere.
FLOOR = 10

KIND = "typed_table"

#: A centre is a multiple of this share of its scale.
_ROUNDING = 1 / 8

_BLOCK_BYTES = 8 << 20
_LEAST_BLOCK_ROWS = 256


def learn(
    chunks: Iterator[Chunk],
    training: npt.NDArray[np.bool_],
    types: Mapping[str, Type],
    words: Mapping[str, set[str]],
    *,
    standardised: bool,
) -> Options:
    """Return the encoding learned from the rows of ``chunks`` where ``training`` (n,) is true.

    ``words`` are those of all rows, by column, from which codes are turned back.
    """
    columns = [_Learned(name, one, words.get(name, set())) for name, one in types.items()]
    sums = _Sums([place for place, one in enumerate(columns) if one.type in ("whole", "number")])
    first = 0
    for chunk in chunks:
        here = training[first : first + len(chunk)]
        first += len(chunk)
        if len(here) != len(chunk):
            raise _changed()
        cells = np.ascontiguousarray(chunk.x[here]).view(np.int64)[:, :, 0]
        people = _people(chunk, here)
        for place, column in enumerate(columns):
            column.add(cells[:, place], people)
        sums.add(cells.view(np.float64))
    moments = sums.finish()
    return Options(
        tuple(
            column.encoded(moments.get(place), standardised=standardised)
            for place, column in enumerate(columns)
        )
    )


def facts(options: Options, shape: Sequence[int]) -> dict[str, Any]:
    """Return the facts of the input of a typed table with this encoding (``inputs.facts``)."""
    kind = inputs.kind(KIND, dataclasses.asdict(options))
    return inputs.facts(kind, shape, kind.input.dtypes[0])


def of(input: Mapping[str, Any] | None) -> Options | None:
    """Return the encoding of a dataset, by the facts of its input; None unless it is typed."""
    if input is None or input["name"] != KIND:
        return None
    found: Options = inputs.kind(KIND, input["options"]).options
    return found


class Unknown:
    """Counts the words that have no feature, by column, among rows as they are stored."""

    def __init__(self, options: Options) -> None:
        self._codes = {
            place: (one.name, [MISSING, *map(typed_table.code_of, one.words)])
            for place, one in enumerate(options.columns)
            if one.type == "category"
        }
        self.counts: dict[str, int] = {}

    def add(self, x: npt.NDArray[np.int32]) -> None:
        """Count in rows (k, columns, 2)."""
        cells = np.ascontiguousarray(x).view(np.int64)[:, :, 0]
        for place, (name, codes) in self._codes.items():
            count = int((~np.isin(cells[:, place], codes)).sum())
            if count:
                self.counts[name] = self.counts.get(name, 0) + count


class Content:
    """A digest of all rows of a source, whichever chunks they come in."""

    def __init__(self) -> None:
        self._rows, self._labels = hashlib.sha256(), hashlib.sha256()

    def through(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        """Yield the chunks and add them."""
        for chunk in chunks:
            self._rows.update(np.ascontiguousarray(chunk.x).data)
            self._labels.update(np.ascontiguousarray(chunk.labels).data)
            yield chunk

    def require(self, other: Content) -> None:
        """Raise ``ReadError`` unless both have received the same rows."""
        ours = self._rows.digest(), self._labels.digest()
        if ours != (other._rows.digest(), other._labels.digest()):
            raise _changed()


def _changed() -> ReadError:
    return ReadError("the source was changed while it was read; add it again")


def _people(chunk: Chunk, here: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64] | None:
    """Return a number for the subject of each chosen row, None if the source has no subjects."""
    if chunk.subject_ids is None:
        return None
    kept = (one for one, chosen in zip(chunk.subject_ids, here, strict=True) if chosen)
    return np.fromiter(map(hash, kept), np.int64)


class _People:
    """Counts different people up to ``FLOOR``."""

    def __init__(self) -> None:
        self._known: set[int] = set()
        self._rows = 0

    @property
    def enough(self) -> bool:
        return self._rows >= FLOOR or len(self._known) >= FLOOR

    def merge(self, other: _People) -> None:
        self._known |= other._known
        self._rows += other._rows

    def add(self, where: npt.NDArray[np.bool_], people: npt.NDArray[np.int64] | None) -> None:
        if self.enough:
            return
        if people is None:
            self._rows += int(where.sum())
        else:
            for one in np.unique(people[where]).tolist():
                self._known.add(one)
                if self.enough:
                    return


class _Learned:
    """What is learned of one column."""

    def __init__(self, name: str, type: Type, words: set[str]) -> None:
        self.name, self.type = name, type
        self._words = {typed_table.code_of(word): word for word in sorted(words)}
        self._of_word = {code: _People() for code in self._words}
        self._present, self._missing = _People(), _People()

    def add(self, cells: npt.NDArray[np.int64], people: npt.NDArray[np.int64] | None) -> None:
        """Add the column's cells (k,) of training rows."""
        if self.type == "category":
            absent = cells == MISSING
            codes = np.unique(cells[~absent]).tolist()
            for code in codes:
                # A word that was not there before: the source was changed, which is found later.
                known = self._of_word.setdefault(code, _People())
                if not known.enough:
                    known.add(cells == code, people)
        else:
            absent = np.isnan(cells.view(np.float64))
        self._missing.add(absent, people)
        self._present.add(~absent, people)

    def encoded(self, moments: _Moments | None, *, standardised: bool) -> Column:
        """Return the column's part of the encoding."""
        if self.type == "category":
            known = [word for code, word in self._words.items() if self._of_word[code].enough]
            return Column(
                self.name,
                self.type,
                words=tuple(sorted(known)),
                missing=self._missing.enough,
                unknown=self._unknown(),
            )
        if self.type == "boolean":
            return Column(self.name, self.type, fill=0.5, missing=self._missing.enough)
        centre, scale = (0.0, 1.0)
        if moments is not None and self._present.enough:
            centre, scale = moments.rounded()
        fill = centre
        if not standardised:
            centre, scale = 0.0, 1.0
        return Column(
            self.name,
            self.type,
            centre=centre,
            scale=scale,
            fill=fill,
            missing=self._missing.enough,
        )

    def _unknown(self) -> bool:
        """Return whether enough people have words that few have."""
        rare = _People()
        for one in self._of_word.values():
            if not one.enough:
                rare.merge(one)
        return rare.enough


@dataclass(frozen=True)
class _Moments:
    """Number, mean and sum of squared deviations of a column's values."""

    count: int
    mean: float
    squares: float

    def joined(self, other: _Moments) -> _Moments:
        """Return those of both together (Chan, Golub and LeVeque 1979)."""
        if not self.count or not other.count:
            return self if self.count else other
        count, apart = self.count + other.count, other.mean - self.mean
        return _Moments(
            count,
            self.mean + apart * other.count / count,
            self.squares + other.squares + apart * apart * self.count * other.count / count,
        )

    def rounded(self) -> tuple[float, float]:
        """Return the centre and the scale: a power of two near the standard deviation."""
        deviation = math.sqrt(self.squares / self.count)
        if not deviation > abs(self.mean) * 1e-12:  # one value throughout
            return self.mean, 1.0
        scale = 2.0 ** round(math.log2(deviation))
        step = scale * _ROUNDING
        return round(self.mean / step) * step, scale


class _Sums:
    """The moments of some columns, summed in blocks of a fixed number of rows."""

    def __init__(self, places: Sequence[int]) -> None:
        self._places = list(places)
        self._moments = {place: _Moments(0, 0.0, 0.0) for place in places}
        self._size = max(_LEAST_BLOCK_ROWS, _BLOCK_BYTES // (8 * max(1, len(places))))
        self._waiting: list[npt.NDArray[np.float64]] = []
        self._rows = 0

    def add(self, values: npt.NDArray[np.float64]) -> None:
        """Add rows (k, all columns); NaN is missing."""
        here = values[:, self._places]
        while len(here):
            taken = here[: self._size - self._rows]
            self._waiting.append(taken)
            self._rows += len(taken)
            here = here[len(taken) :]
            if self._rows == self._size:
                self._sum()

    def finish(self) -> dict[int, _Moments]:
        """Return the moments by column."""
        self._sum()
        return self._moments

    def _sum(self) -> None:
        if not self._rows:
            return
        block = np.concatenate(self._waiting)
        self._waiting, self._rows = [], 0
        there = ~np.isnan(block)
        count = there.sum(0)
        values = np.where(there, block, 0.0)
        mean = values.sum(0) / np.maximum(count, 1)
        squares = (np.where(there, block - mean, 0.0) ** 2).sum(0)
        for place, *one in zip(
            self._places, count.tolist(), mean.tolist(), squares.tolist(), strict=True
        ):
            self._moments[place] = self._moments[place].joined(_Moments(*one))
