"""Record which whole sets of a dataset had figures shown, and whether another may be shown.

A set is the retained, validation or audit rows of a version at a revision of the dataset. If the
weights are the same, two tables over sets that differ by a few rows give, subtracted, the figures
of these rows; and a client that imports weights, or trains with a seed, can have the same weights
in any number of models. So a set is shown only if it was shown before, for whichever model of the
dataset, or differs from each shown one by at least ``LEAST_ROWS`` rows.

Rows leave a set and never return, so of the sets of one record list only the nearest shown ones, by
revision, need to be compared. Sets of different lists are compared row by row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import ColumnElement, and_, func, or_, select, text
from sqlalchemy.orm import Session

from service.ledger.database.tables import Record, RecordList, ShownSet
from service.ledger.registry import lineage
from service.ledger.reports.disclosure import LEAST_ROWS
from service.ledger.selection import exclusions

#: Sets with figures, by the split that their rows are drawn from.
SETS = ("retain", "calibration", "audit")

#: In place of a record list's id, for the train split.
_SPLIT = ""

#: First half of the key of PostgreSQL's advisory lock; the second is the dataset's id.
_LOCK = 0x5E75


def hold(session: Session, dataset_id: int) -> None:
    """Keep other transactions from showing sets of the dataset until this one ends.

    In the order of locks it comes after models and before training runs.
    """
    # SQLite has one writer at a time.
    if session.get_bind().dialect.name == "postgresql":
        session.execute(
            text("SELECT pg_advisory_xact_lock(:kind, :dataset)"),
            {"kind": _LOCK, "dataset": dataset_id},
        )


def show(
    session: Session, dataset_id: int, record_list_id: str | None, revision: int
) -> dict[str, int]:
    """Return, for each set, by how few rows it differs from a shown one; 0: it is shown now.

    The caller has called ``hold`` in this transaction.
    """
    mine = record_list_id or _SPLIT
    near = _nearest(session, dataset_id, mine, revision)
    found = dict.fromkeys(SETS, 0)
    same: dict[str, ShownSet] = {}
    for point, rows in zip(near, _left(session, near, revision), strict=True):
        _keep_least(found, point.name, rows)
        if rows == 0:
            same[point.name] = point
    for other in _other_lists(session, dataset_id, mine):
        for name, rows in _between_lists(session, dataset_id, mine, other, revision).items():
            _keep_least(found, name, rows)
    for name in SETS:
        if found[name]:
            continue
        if name not in same:
            session.add(ShownSet(dataset_id=dataset_id, name=name, list_id=mine, revision=revision))
        elif same[name].revision < revision:
            # The same rows, so later exclusions are counted from here.
            same[name].revision = revision
    session.flush()
    return found


def _keep_least(found: dict[str, int], name: str, rows: int) -> None:
    if 0 < rows < LEAST_ROWS:
        found[name] = min(rows, found[name] or rows)


def _nearest(session: Session, dataset_id: int, list_id: str, revision: int) -> Sequence[ShownSet]:
    """Return, for each name, the last set shown up to the revision, and the first after it."""
    nearest = []
    for name in SETS:
        here = select(ShownSet.id).where(
            ShownSet.dataset_id == dataset_id, ShownSet.name == name, ShownSet.list_id == list_id
        )
        before = here.where(ShownSet.revision <= revision).order_by(ShownSet.revision.desc())
        after = here.where(ShownSet.revision > revision).order_by(ShownSet.revision)
        nearest += [part.limit(1).scalar_subquery() for part in (before, after)]
    return session.scalars(select(ShownSet).where(ShownSet.id.in_(nearest))).all()


def _left(session: Session, points: Sequence[ShownSet], revision: int) -> Sequence[int]:
    """Return how many rows left each set from its revision to this one, up to ``LEAST_ROWS``."""
    counts = []
    for point in points:
        low, high = sorted((point.revision, revision))
        rows = select(Record.row).where(
            exclusions.between(point.dataset_id, after=low, until=high),
            _in_set(point.name, point.list_id),
        )
        few = select(func.count()).select_from(rows.limit(LEAST_ROWS).subquery())
        counts.append(few.scalar_subquery())
    return tuple(session.execute(select(*counts)).one()) if counts else ()


def _other_lists(session: Session, dataset_id: int, mine: str) -> Iterable[str]:
    lists = session.scalars(select(RecordList.id).where(RecordList.dataset_id == dataset_id))
    return sorted({_SPLIT, *lists} - {mine})


def _between_lists(
    session: Session, dataset_id: int, mine: str, other: str, revision: int
) -> Mapping[str, int]:
    """Return, for each set, by how few rows it differs from a shown one of another list."""
    points = session.scalars(
        select(ShownSet).where(ShownSet.dataset_id == dataset_id, ShownSet.list_id == other)
    ).all()
    found = dict.fromkeys(SETS, 0)
    for name in sorted({point.name for point in points}):
        # Rows that are never excluded distinguish the lists at any revision.
        if _differing(session, dataset_id, name, mine, other) >= LEAST_ROWS:
            continue
        for point in points:
            if point.name == name:
                rows = _differing(
                    session, dataset_id, name, mine, other, at=(revision, point.revision)
                )
                _keep_least(found, name, rows)
    return found


def _differing(
    session: Session,
    dataset_id: int,
    name: str,
    mine: str,
    other: str,
    *,
    at: tuple[int, int] | None = None,
) -> int:
    """Return by how many rows two sets differ, up to ``LEAST_ROWS``; ``at``: their revisions."""
    if at is None:
        a, b = _in_set(name, mine), _in_set(name, other)
        among: ColumnElement[bool] = Record.excluded_revision.is_(None)
        rows = select(Record.row).where(among, or_(and_(a, ~b), and_(b, ~a)))
    else:
        a, b = (
            and_(_in_set(name, its), _stays(revision))
            for its, revision in zip((mine, other), at, strict=True)
        )
        rows = select(Record.row).where(or_(and_(a, ~b), and_(b, ~a)))
    few = rows.where(Record.dataset_id == dataset_id).limit(LEAST_ROWS)
    return session.scalar(select(func.count()).select_from(few.subquery())) or 0


def _stays(revision: int) -> ColumnElement[bool]:
    """Return SQL: ``Record`` is not excluded at the revision; never NULL."""
    return or_(Record.excluded_revision.is_(None), Record.excluded_revision > revision)


def _in_set(name: str, list_id: str) -> ColumnElement[bool]:
    """Return SQL: ``Record`` is of the set, regardless of exclusions."""
    trained = lineage.of_training(list_id or None)
    if name == SETS[0]:
        return trained
    return and_(Record.split == SETS.index(name), ~trained)
