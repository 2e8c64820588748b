"""What ``exclusions`` says of ``records``, whoever changes them."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, select, text, update
from sqlalchemy.orm import Session

from service.ledger.database import db
from service.ledger.database.tables import Dataset, Exclusion, Record
from service.ledger.obligations import raw_rows
from service.ledger.selection import exclusions, naming
from tests import factories
from tests.factories import NOW


@pytest.fixture
def data(session: Session) -> Dataset:
    made = factories.dataset(session)
    session.flush()
    return made


def said(session: Session, dataset_id: int) -> dict[int, tuple[int, bool]]:
    """{row: (revision, whether it is still to be overwritten)}."""
    rows = session.execute(
        select(Exclusion.row, Exclusion.revision, Exclusion.standing).where(
            Exclusion.dataset_id == dataset_id
        )
    )
    return {row: (revision, standing) for row, revision, standing in rows}


def test_rows_are_listed_when_they_are_excluded_and_noted_when_they_are_overwritten(
    session: Session, data: Dataset
) -> None:
    asked = factories.request(session, data, rows=[1, 4])
    later = factories.request(session, data, rows=[4, 2])
    first = exclusions.exclude(session, data.id, naming.Names.of([asked])).revision
    second = exclusions.exclude(session, data.id, naming.Names.of([later])).revision
    assert said(session, data.id) == {1: (first, True), 2: (second, True), 4: (first, True)}
    raw_rows.mark_erased(session, data, [4], now=NOW, actor="w")
    assert said(session, data.id)[4] == (first, False)
    assert set(session.scalars(exclusions.standing(data.id))) == {1, 2}
    assert set(session.scalars(exclusions.rows(data.id, after=first))) == {2}
    assert set(session.scalars(exclusions.rows(data.id, until=first))) == {1, 4}


def test_a_record_that_is_changed_by_hand_is_listed_as_it_is(
    session: Session, data: Dataset
) -> None:
    def change(row: int, **values: object) -> None:
        of_row = update(Record).where(Record.dataset_id == data.id, Record.row == row)
        session.execute(of_row.values(**values))

    change(3, excluded_revision=7, erased_at=NOW)
    change(5, excluded_revision=8)
    assert said(session, data.id) == {3: (7, False), 5: (8, True)}
    change(3, erased_at=None)
    change(5, excluded_revision=9, erased_at=NOW)
    assert said(session, data.id) == {3: (7, True), 5: (9, False)}
    change(3, excluded_revision=None)
    change(4, erased_at=NOW)  # of a removed dataset, where nobody had asked for it
    assert said(session, data.id) == {5: (9, False)}


@pytest.mark.postgres
def test_no_index_on_records_is_written_when_one_is_excluded_or_overwritten(
    postgres_database: Engine,
) -> None:
    with db.session_factory(postgres_database).begin() as session:
        data = factories.dataset(session)
        asked = factories.request(session, data, rows=[1, 4])
        exclusions.exclude(session, data.id, naming.Names.of([asked]))
        raw_rows.mark_erased(session, data, [1, 4], now=NOW, actor="w")
        changed = session.execute(
            text(
                "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_xact_user_tables"
                " WHERE relname = 'records'"
            )
        ).one()
    assert tuple(changed) == (4, 4)
