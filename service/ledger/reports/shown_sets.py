"""Record which whole sets of a dataset had figures shown, and whether another may be shown.

A set is the retained, validation or audit rows of a version at a revision of the dataset, or a
sample of these: the rows whose places are below a limit (``service.messages.sampling``). If the
weights are the same, two tables over sets that differ by a few rows give, subtracted, the figures
of these rows; and a client that imports weights, or trains with a seed, can have the same weights
in any number of models. So a set is shown only if it was shown before, for whichever model of the
dataset, or differs from each shown one by at least ``LEAST_ROWS`` rows, whatever both are called: a
record list may name audit rows, which are then retained rows. So are figures of a batch's rows.

The rows of a set are those of a record list, or of the split, among the first rows of the dataset
(``Version.data_rows``). These and the limit are its *basis*. Rows leave a set and never return, so
of the sets of one basis only the nearest shown ones, by revision, need to be compared. Others are
compared row by row, unless their sizes differ by as many rows already.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Select, and_, cast, func, or_, select, true
from sqlalchemy.orm import Session

from service.ledger.database import advisory
from service.ledger.database.tables import BatchRecord, Record, ShownSet
from service.ledger.registry import lineage
from service.ledger.reports.disclosure import LEAST_ROWS
from service.ledger.selection import exclusions
from service.messages import sampling

#: Sets with figures, by the split that their rows are drawn from.
SETS = ("retain", "calibration", "audit")

#: In place of a record list's id, for the train split.
_SPLIT = ""

#: Of an advisory lock; the thing is the dataset's id.
_KIND = 0x5E75

#: A set that lost no row since it was shown is compared from the revision at which it was, until
#: that is so far behind.
_REVISIONS_BEHIND = 64

#: Sets compared in one statement.
_AT_ONCE = 100


def key(dataset_id: int) -> advisory.Key:
    """Return the key of the lock that ``hold`` takes."""
    return _KIND, dataset_id


def hold(session: Session, dataset_id: int) -> None:
    """Keep other transactions from showing sets of the dataset until this one ends.

    In the order of locks it comes after models and before files.
    """
    advisory.hold(session, [key(dataset_id)])


@dataclass(frozen=True)
class Sample:
    """A sample of a set: the limit of its rows' places, and how many rows it has, if known."""

    below: int = sampling.PLACES
    size: int | None = None


@dataclass(frozen=True)
class _Set:
    """A set that may be shown, or was.

    Name, record list, number of the dataset's rows that it is taken from, sample, revision.
    """

    name: str
    list_id: str
    data_rows: int
    sample: Sample
    revision: int


def samples_of(measured: Mapping[str, Any]) -> Mapping[str, Sample]:
    """Return the samples that a verification says it read; of others, every row was read."""
    said: Mapping[str, Mapping[str, int]] = measured.get("sampled", {})
    return {name: _sample(said.get(name)) for name in SETS}


def _sample(said: Mapping[str, int] | None) -> Sample:
    return Sample() if said is None else Sample(said["below"], said.get("rows"))


def show(
    session: Session,
    dataset_id: int,
    record_list_id: str | None,
    data_rows: int,
    revision: int,
    samples: Mapping[str, Sample],
) -> dict[str, int]:
    """Return, for each set, by how few rows it differs from a shown one; 0: it is shown now.

    ``samples``: of each set that has figures, what was read. The caller has called ``hold`` in this
    transaction.
    """
    list_id = record_list_id or _SPLIT
    mine = [_Set(name, list_id, data_rows, of, revision) for name, of in samples.items()]
    points = _points(session, dataset_id, mine)
    bases = {_basis(one) for one in mine}
    near = [point for point in points if _basis(_of(point)) in bases]
    others = [one for one in map(_of, points) if _basis(one) not in bases]
    pairs = [(one, shown) for one in mine for shown in _alike(one, others)]
    # Rows that are never excluded distinguish sets of other bases at any revision.
    lasting = [_differing(dataset_id, one, shown[0], lasting=True) for one, shown in pairs]
    counts = _counted(session, [*(_left(point, revision) for point in near), *lasting])
    compared: dict[str, list[int]] = {one.name: [] for one in mine}
    same: dict[str, ShownSet] = {}
    for point, rows in zip(near, counts, strict=False):
        compared[point.name].append(rows)
        if rows == 0:
            same[point.name] = point
    close = [
        (one, other)
        for (one, shown), rows in zip(pairs, counts[len(near) :], strict=True)
        if rows < LEAST_ROWS
        for other in shown
    ]
    apart = _counted(session, [_differing(dataset_id, one, other) for one, other in close])
    for (one, _), rows in zip(close, apart, strict=True):
        compared[one.name].append(rows)
    found = {
        name: min((few for few in rows if 0 < few < LEAST_ROWS), default=0)
        for name, rows in compared.items()
    }
    for one in mine:
        if found[one.name]:
            continue
        if one.name not in same:
            session.add(_row(dataset_id, one))
        elif revision - same[one.name].revision > _REVISIONS_BEHIND:
            # The same rows, so later exclusions may be counted from here.
            same[one.name].revision = revision
    session.flush()
    return found


def near_rows(session: Session, dataset_id: int, rows: Sequence[int]) -> int:
    """Return by how few rows these differ from a shown set; 0: from none, or it is the same."""
    near = or_(ShownSet.size.is_(None), func.abs(ShownSet.size - len(rows)) < LEAST_ROWS)
    points = session.scalars(select(ShownSet).where(ShownSet.dataset_id == dataset_id, near))
    wanted, found = set(rows), 0
    for point in points.all():
        one = _of(point)
        few = (
            select(Record.row)
            .where(Record.dataset_id == dataset_id, _in_set(one), _stays(one.revision))
            .limit(len(wanted) + LEAST_ROWS)
        )
        differing = len(wanted.symmetric_difference(session.scalars(few)))
        if 0 < differing < LEAST_ROWS:
            found = min(differing, found or differing)
    return found


def between_shown(session: Session, dataset_id: int, batch_id: str) -> list[Select[int]]:
    """Select the rows that left a set between two times at which it was shown, for each such pair.

    These are the pairs at whose both ends rows of the batch left: figures of a wider pair would be
    those of at least ``LEAST_ROWS`` other rows as well.
    """
    excluded = session.scalars(
        select(Record.excluded_revision)
        .join(BatchRecord, BatchRecord.row == Record.row)
        .where(Record.dataset_id == dataset_id, BatchRecord.batch_id == batch_id)
        .distinct()
    )
    left = {revision for revision in excluded if revision is not None}
    shown = session.scalars(
        select(ShownSet)
        .where(ShownSet.dataset_id == dataset_id)
        .order_by(*_BASIS, ShownSet.revision)
    )
    found = []
    for _, alike in itertools.groupby(shown, lambda point: _basis(_of(point))):
        points = list(alike)
        revisions = [point.revision for point in points]
        ends = sorted({bisect.bisect_left(revisions, one) for one in left} - {0, len(points)})
        for first, last in itertools.combinations_with_replacement(ends, 2):
            gone = exclusions.between(dataset_id, after=revisions[first - 1], until=revisions[last])
            found.append(select(Record.row).where(gone, _in_set(_of(points[last]))))
    return found


def _points(session: Session, dataset_id: int, mine: Sequence[_Set]) -> Sequence[ShownSet]:
    """Return the shown sets to compare with, by basis and revision.

    Of each set's own basis the last one up to its revision, and the first after it; of others those
    that may differ from some set by few rows.
    """
    nearest = []
    for one in mine:
        here = select(ShownSet.id).where(
            ShownSet.dataset_id == dataset_id,
            ShownSet.name == one.name,
            ShownSet.list_id == one.list_id,
            ShownSet.data_rows == one.data_rows,
            ShownSet.below == one.sample.below,
        )
        before = here.where(ShownSet.revision <= one.revision).order_by(ShownSet.revision.desc())
        after = here.where(ShownSet.revision > one.revision).order_by(ShownSet.revision)
        nearest += [part.limit(1).scalar_subquery() for part in (before, after)]
    which = or_(ShownSet.id.in_(nearest), *map(_of_other_basis, mine))
    return session.scalars(
        select(ShownSet)
        .where(ShownSet.dataset_id == dataset_id, which)
        .order_by(*_BASIS, ShownSet.revision)
    ).all()


def _counted(session: Session, wanted: Sequence[Select[Any]]) -> list[int]:
    """Return how many rows each of these selects, in few statements."""
    counts = [select(func.count()).select_from(one.subquery()).scalar_subquery() for one in wanted]
    return [
        count
        for start in range(0, len(counts), _AT_ONCE)
        for count in session.execute(select(*counts[start : start + _AT_ONCE])).one()
    ]


def _left(point: ShownSet, revision: int) -> Select[Any]:
    """Select the rows that left a set from its revision to this one, up to ``LEAST_ROWS``."""
    low, high = sorted((point.revision, revision))
    return (
        select(Record.row)
        .where(exclusions.between(point.dataset_id, after=low, until=high), _in_set(_of(point)))
        .limit(LEAST_ROWS)
    )


def _alike(mine: _Set, others: Iterable[_Set]) -> list[list[_Set]]:
    """Return the sets of other bases that may be near this one, those of one basis together."""
    near = [other for other in others if _may_be_near(mine, other)]
    return [list(alike) for _, alike in itertools.groupby(near, _basis)]


def _may_be_near(mine: _Set, other: _Set) -> bool:
    """Return whether two sets of different bases may differ by few rows.

    Two sets differ by at least as many rows as their sizes do.
    """
    # Retained, validation and audit rows of one list, or of the split, are different ones.
    if mine.name != other.name and mine.list_id == other.list_id:
        return False
    size, theirs = mine.sample.size, other.sample.size
    return size is None or theirs is None or abs(size - theirs) < LEAST_ROWS


def _of_other_basis(mine: _Set) -> ColumnElement[bool]:
    """Return SQL: ``ShownSet`` is of another basis, and may differ by few rows."""
    of_set = and_(ShownSet.name == mine.name, ShownSet.list_id == mine.list_id)
    rows = or_(ShownSet.data_rows != mine.data_rows, ShownSet.below != mine.sample.below)
    found = or_(ShownSet.list_id != mine.list_id, and_(of_set, rows))
    if mine.sample.size is None:
        return found
    near = func.abs(ShownSet.size - mine.sample.size) < LEAST_ROWS
    return and_(found, or_(ShownSet.size.is_(None), near))


def _row(dataset_id: int, one: _Set) -> ShownSet:
    return ShownSet(
        dataset_id=dataset_id,
        name=one.name,
        list_id=one.list_id,
        data_rows=one.data_rows,
        below=one.sample.below,
        size=one.sample.size,
        revision=one.revision,
    )


def _of(point: ShownSet) -> _Set:
    sample = Sample(point.below, point.size)
    return _Set(point.name, point.list_id, point.data_rows, sample, point.revision)


#: What ``_basis`` returns of a shown set.
_BASIS = (ShownSet.name, ShownSet.list_id, ShownSet.data_rows, ShownSet.below)


def _basis(one: _Set) -> tuple[str, str, int, int]:
    return one.name, one.list_id, one.data_rows, one.sample.below


def _differing(dataset_id: int, mine: _Set, other: _Set, *, lasting: bool = False) -> Select[Any]:
    """Select the rows in which two sets differ, up to ``LEAST_ROWS``.

    ``lasting``: those of them that are never excluded.
    """
    if lasting:
        a, b = _in_set(mine), _in_set(other)
        among: ColumnElement[bool] = Record.excluded_revision.is_(None)
    else:
        a, b = (and_(_in_set(one), _stays(one.revision)) for one in (mine, other))
        among = true()
    return (
        select(Record.row)
        .where(Record.dataset_id == dataset_id, among, or_(and_(a, ~b), and_(b, ~a)))
        .order_by(Record.row)
        .limit(LEAST_ROWS)
    )


def _stays(revision: int) -> ColumnElement[bool]:
    """Return SQL: ``Record`` is not excluded at the revision; never NULL."""
    return or_(Record.excluded_revision.is_(None), Record.excluded_revision > revision)


def _in_set(one: _Set) -> ColumnElement[bool]:
    """Return SQL: ``Record`` is of the sample of the set, regardless of exclusions."""
    found = lineage.of_training(one.list_id or None, one.data_rows)
    if one.name != SETS[0]:
        of_split = Record.split == SETS.index(one.name)
        found = and_(of_split, Record.row < one.data_rows, ~found)
    if one.sample.below == sampling.PLACES:
        return found
    return and_(found, sampling.place(cast(Record.row, BigInteger)) < one.sample.below)
