"""Keep suppressed rows and subjects out of an ingest."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy.orm import Session

from models_store import row_facts
from models_store.protocols import DTYPES, Rows
from service.ledger.database import db, identifiers
from service.ledger.database.tables import Dataset
from service.ledger.registry import datasets, segments
from service.ledger.registry.segments import Segment
from service.ledger.requests import suppressions
from service.ledger.requests.suppressions import Kind, Suppressed
from service.ledger.selection.digests import Digester
from workers.jobs import arrays
from workers.readers import Chunk
from workers.runtime import Runtime
from workers.sources import layouts
from workers.sources.layouts import Found, Layout


@dataclass
class SuppressionFilter:
    """Marks the suppressed rows of a source; called chunk after chunk, from the first on.

    ``layouts`` are those of the datasets that had rows forgotten. ``fold_case``: the source's
    subject ids come with their case folded.
    """

    digester: Digester
    suppressed: Suppressed
    layouts: Collection[Layout] = ()
    fold_case: bool = False
    _read: int = 0

    def __call__(self, chunk: Chunk, layout: Layout | None = None) -> npt.NDArray[np.bool_]:
        """Return which rows of the next chunk are suppressed, (k,) bool.

        ``layout`` is that of its rows; None: their columns have no names.
        """
        first = self._read
        self._read += len(chunk)
        left_out = self._of_rows(chunk, layout, first)
        # Suppressions from before ids had their present form have digests of the former one.
        for subject_ids in (chunk.subject_ids, chunk.subject_ids_before):
            left_out |= self._of_subjects(subject_ids, len(chunk))
        return left_out

    def missed(
        self,
        session: Session,
        dataset: Dataset,
        subject_ids: Sequence[str] | None,
        *,
        first: int = 0,
    ) -> bool:
        """Return whether records from ``first`` on are of a subject suppressed after this was made.

        ``subject_ids`` are those of these records.
        """
        late = suppressions.in_force(session, after=self.suppressed.newest)
        digests = late.digests[self._kind]
        if subject_ids is None or not digests:
            return False
        if suppressions.holds(session, dataset, digests, first=first):
            return True
        # Requests may still be recorded under an earlier key, under which no record is kept.
        others = Digester(self.digester.keys[1:])
        return bool(others.keys) and any(
            not digests.isdisjoint(others.subjects(one)) for one in subject_ids
        )

    def _of_subjects(self, subject_ids: Sequence[str] | None, rows: int) -> npt.NDArray[np.bool_]:
        if subject_ids is None or not self.suppressed.digests[self._kind]:
            return np.zeros(rows, np.bool_)
        known = {one: self._is_suppressed(one) for one in set(subject_ids)}
        return np.array([known[one] for one in subject_ids], np.bool_)

    def _is_suppressed(self, subject_id: str) -> bool:
        return not self.suppressed.digests[self._kind].isdisjoint(
            self.digester.subjects(subject_id)
        )

    def _of_rows(self, chunk: Chunk, layout: Layout | None, first: int) -> npt.NDArray[np.bool_]:
        left_out = np.zeros(len(chunk), np.bool_)
        if not self.suppressed.digests[Kind.ROW]:
            return left_out
        labels = np.asarray(chunk.labels).astype(np.int64)
        places = [suppressions.place_key(first + i) for i in range(len(chunk))]
        keys = [chunk.record_ids or places]
        keys += [chunk.record_ids_before] if chunk.record_ids_before else []
        before = self._labels_before(chunk, keys, first)
        for numbers, x in self._as_stored(chunk, layout, before):
            left_out[self._known(keys, numbers, x, labels[numbers])] = True
            others = [
                (place, label)
                for place, number in enumerate(numbers.tolist())
                for label in before.get(number, ())
                if label != labels[number]
            ]
            if others:
                at, under = np.array(others, np.int64).T
                left_out[self._known(keys, numbers[at], x[at], under)] = True
        return left_out

    def _known(
        self,
        keys: Sequence[Sequence[str]],
        numbers: npt.NDArray[np.int64],
        x: npt.NDArray[Any],
        labels: npt.NDArray[np.int64],
    ) -> list[int]:
        """Return those of the chunk's rows ``numbers`` that are suppressed with these labels."""
        rows = self.suppressed.digests[Kind.ROW]
        contents = row_facts.row_digests(np.ascontiguousarray(x), labels)
        return [
            number
            for number, content in zip(numbers.tolist(), contents, strict=True)
            if any(not rows.isdisjoint(self.digester.rows(form[number], content)) for form in keys)
        ]

    def _labels_before(
        self, chunk: Chunk, keys: Sequence[Sequence[str]], first: int
    ) -> dict[int, set[int]]:
        """Return the labels under which rows with the ids of the chunk's were suppressed, by place.

        The number of a class may follow from the names of all classes, as in a folder.
        """
        found: dict[int, set[int]] = {}
        for form in keys:
            for place, key in enumerate(form):
                if key in self.suppressed.labels:
                    found.setdefault(place, set()).update(self.suppressed.labels[key])
        ids = [form for form in (chunk.record_ids, chunk.record_ids_before) if form]
        for removed, labels in self.suppressed.labels_of_removed.items():
            for form in ids or [_generated(first, len(chunk), removed.rows)]:
                each = self.digester.each_record_candidates(removed.name, form)
                for place, candidates in enumerate(each):
                    for digest in labels.keys() & candidates:
                        found.setdefault(place, set()).update(labels[digest])
        return found

    def _as_stored(
        self, chunk: Chunk, layout: Layout | None, likely: Collection[int]
    ) -> Iterator[Found]:
        """Yield the rows in each form in which they may have been stored, with their places.

        ``likely``: places of rows with the ids of suppressed ones, which are sought in more forms.
        """
        yield from _in_dtypes(chunk.x)
        if layout is None or not layout.fits(chunk.x.shape[1:]):
            return
        for other in self.layouts:
            for places, x in layouts.translated(
                chunk.x, layout, other, chunk.readings, likely=likely
            ):
                for among, same in _in_dtypes(x):
                    yield places[among], same

    @property
    def _kind(self) -> Kind:
        return Kind.FOLDED if self.fold_case else Kind.SUBJECT


def _generated(first: int, count: int, rows: int) -> list[str]:
    """Return the ids that a dataset of ``rows`` rows generated for ``count`` rows from ``first``.

    It has none beyond its end.
    """
    return [identifiers.generated(row, rows) for row in range(first, min(first + count, rows))]


def _in_dtypes(x: npt.NDArray[Any]) -> Iterator[Found]:
    """Yield the rows in each dtype that can hold them, with their places in ``x`` (k, *shape).

    A file is stored as bytes or as float32 depending on its other rows, or on the kind of input
    that the source declares; so the same row may have been stored as other bytes before.
    """
    yield np.arange(len(x)), x
    for dtype in map(np.dtype, DTYPES):
        if dtype == x.dtype:
            continue
        with np.errstate(over="ignore", invalid="ignore"):
            other = x.astype(dtype)
            same = (other.astype(np.float64) == x).all(axis=tuple(range(1, x.ndim)))
        places = np.flatnonzero(same)
        if len(places):
            yield places, other[places]


@dataclass(frozen=True)
class Unkept:
    """Rows of a dataset that are not suppressed, and where their content can be read.

    ``names``: their record ids, as ``suppressions.row_key`` gives them, by row.
    """

    dataset: Dataset
    names: Mapping[int, str]
    segments: Sequence[Segment]

    @property
    def end(self) -> int:
        """Return the number of rows that its segments have."""
        return sum(one.rows for one in self.segments)


def find(session: Session, dataset: Dataset) -> Unkept:
    """Return the rows that are about to be erased."""
    _, names = suppressions.about_to_be_erased(session, dataset)
    return Unkept(dataset, names, segments.of(session, dataset))


def digests(stored: Rows, found: Unkept, digester: Digester) -> dict[int, str]:
    """Return the digests of those of the rows that are not erased, by row.

    It reads the store, which may be slow: hold no lock meanwhile.
    """
    if not found.names or found.dataset.array_key is None:
        return {}
    if found.dataset.withdrawn_at is not None and not arrays.exist(stored, found.segments):
        return {}  # its removal has begun, and the requested rows were suppressed before
    contents = arrays.digests(stored, found.segments, list(found.names))
    return {row: digester.row(found.names[row], content) for row, content in contents.items()}


def load(runtime: Runtime, *, newest: int) -> Suppressed:
    """Return what is suppressed now, with the rows that open requests are about to erase.

    ``newest`` is the number up to which all suppressions can be read (``suppressions.newest``).
    """
    # Before the suppressions: a row that is suppressed and overwritten meanwhile is one of them.
    with runtime.session() as session:
        going = suppressions.about_to_go(db.read_only(session))
        unkept = [
            Unkept(
                dataset,
                suppressions.unkept(session, dataset, rows),
                segments.of(session, dataset),
            )
            for dataset, rows in going.items()
        ]
    of_going = {
        digest
        for one in unkept
        for digest in digests(runtime.store.rows, one, runtime.digester).values()
    }
    with runtime.session() as session:
        found = suppressions.in_force(db.read_only(session))
        labels = suppressions.labels(session, going)
        of_removed = suppressions.labels_of_removed(session)
    rows = found.digests[Kind.ROW] | of_going
    return Suppressed({**found.digests, Kind.ROW: rows}, newest, labels, of_removed)


def layouts_of(session: Session) -> frozenset[Layout]:
    """Return the layouts of the datasets of which rows are suppressed, or are about to be."""
    found = (
        layouts.of_dataset(dataset, datasets.report(session, dataset))
        for dataset in suppressions.datasets_of_rows(session)
    )
    return frozenset(layout for layout in found if layout is not None)
