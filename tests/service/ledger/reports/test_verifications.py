"""Verifications in the ledger: how far the sets of one differ from those last shown."""

from __future__ import annotations

from sqlalchemy.orm import Session

from service.ledger.database.tables import Record
from service.ledger.reports import verifications
from service.ledger.selection import record_lists
from tests import factories


def test_a_listed_row_that_is_forgotten_left_the_retained_rows_whatever_its_split(
    session: Session,
) -> None:
    """The sets of a version with a list are not those of the splits."""
    data = factories.dataset(session, rows=40, splits=[0] * 20 + [1] * 10 + [2] * 10)
    model = factories.model(session, data)
    listed = record_lists.create(
        session,
        data,
        [f"r{row}" for row in (*range(15), *range(30, 35))],
        actor="key:test",
        now=factories.NOW,
    )

    def store(revision: int, list_id: str | None) -> dict[str, int]:
        version = factories.version(session, model, record_list_id=list_id)
        made = verifications.store(
            session,
            model,
            version,
            measured={"verdict": "exact"},
            data_revision=revision,
            actor="worker:w",
            now=factories.NOW,
        )
        assert made.set_changes is not None
        rows: dict[str, int] = made.set_changes["rows"]
        return rows

    assert store(0, listed.id) == {"retain": 0, "calibration": 0, "audit": 0}
    # An audit row that was trained on, and one that was not.
    for revision, row in ((1, 30), (2, 36)):
        session.get_one(Record, (data.id, row)).excluded_revision = revision
    session.flush()
    assert store(1, listed.id) == {"retain": 1, "calibration": 0, "audit": 0}
    assert store(2, listed.id) == {"retain": 1, "calibration": 0, "audit": 1}
    # The train split differs by five of its own rows and five audit rows: ten, and five.
    assert store(2, None) == {"retain": 0, "calibration": 0, "audit": 6}
