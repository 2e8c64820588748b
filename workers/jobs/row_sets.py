"""Sets of rows that requests to compute processes name: excluded ones, and those of record lists.

Both may be most of a dataset, so a request carries only what the process was not sent before.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger.database.tables import Exclusion, Model, Record, RecordListRow, Version
from service.ledger.registry import lineage
from service.ledger.selection import exclusions
from service.messages import unlearn

#: What a compute process may know already: a dataset or a record list, by its id.
Known = tuple[str, int | str]
#: It knows nothing: send everything.
EVERYTHING: Mapping[Known, int] = {}


def unsent(
    session: Session,
    dataset_id: int,
    *,
    revision: int,
    record_list_id: str | None,
    knows: Mapping[Known, int] = EVERYTHING,
) -> unlearn.RowSets:
    """Return what a compute process must know of a dataset, without what it was sent before.

    ``knows``: the revision up to which it knows the dataset's excluded rows, and the record lists
    whose rows it knows.
    """
    since = knows.get(("dataset", dataset_id), 0)
    if since > revision:
        since = 0
    rows = exclusions.just_excluded(session, dataset_id, after=since, revision=revision)
    if rows is None:
        rows = excluded_rows(session, dataset_id, after=since, revision=revision)
    return unlearn.RowSets(
        excluded=unlearn.Excluded(dataset=dataset_id, since=since, until=revision, rows=rows),
        trained_on=None
        if record_list_id is None
        else unlearn.RecordList(
            list_id=record_list_id,
            rows=None if ("list", record_list_id) in knows else listed(session, record_list_id),
        ),
    )


def everything(session: Session, before: unlearn.RowSets) -> unlearn.RowSets:
    """Return the full data in place of ``before``, for a compute process that knows nothing."""
    excluded, trained = before.excluded, before.trained_on
    return unsent(
        session,
        excluded.dataset,
        revision=excluded.until,
        record_list_id=None if trained is None else trained.list_id,
    )


def known(answered: unlearn.RowSets) -> dict[Known, int]:
    """Return what a compute process knows after it has answered a request."""
    excluded, trained = answered.excluded, answered.trained_on
    found: dict[Known, int] = {("dataset", excluded.dataset): excluded.until}
    if trained is not None:
        found["list", trained.list_id] = 1
    return found


def trained_on(session: Session, version: Version) -> list[int] | None:
    """Return the rows of the list that the version's anchor was imported with; None: train split.

    A list is never changed, so it applies to each version of the chain.
    """
    if version.record_list_id is None:
        return None
    return listed(session, version.record_list_id)


def listed(session: Session, record_list_id: str) -> list[int]:
    """Return the rows of a record list, ascending."""
    return list(
        session.scalars(
            select(RecordListRow.row)
            .where(RecordListRow.list_id == record_list_id)
            .order_by(RecordListRow.row)
        )
    )


def subjects(session: Session, dataset_id: int, version: Version) -> list[list[int]]:
    """Return the version's training rows that share their subject with another, by subject."""
    rows = session.execute(
        select(Record.subject_digest, Record.row)
        .where(
            Record.dataset_id == dataset_id,
            lineage.of_training(version.record_list_id, version.data_rows),
            Record.subject_digest.is_not(None),
        )
        .order_by(Record.subject_digest, Record.row)
    )
    groups = [[row for _, row in group] for _, group in groupby(rows, key=lambda one: one[0])]
    return [group for group in groups if len(group) > 1]


def excluded_rows(
    session: Session, dataset_id: int, *, after: int = 0, revision: int | None = None
) -> list[int]:
    """Return rows that no training, sample or score may read, as of ``revision`` if given.

    Only those excluded after the revision ``after``.
    """
    wanted = exclusions.rows(dataset_id, after=after, until=revision)
    return list(session.scalars(wanted.order_by(Exclusion.row)))


def excluded_up_to(session: Session, start: Version) -> list[int]:
    """Return the rows that were excluded before the anchor's training, and are not in it."""
    found = session.get_one(Model, start.model_id)
    return excluded_rows(session, found.dataset_id, revision=start.data_revision)
