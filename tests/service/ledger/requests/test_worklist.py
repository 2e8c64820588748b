"""The list of requests for people: its orders have indexes, and its counts are bounded."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, select, text
from sqlalchemy.orm import Session

from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import Dataset
from service.ledger.requests import worklist
from service.ledger.requests.worklist import Wanted
from tests import factories
from tests.factories import NOW


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (Wanted(), "ix_deletion_requests_due"),
        (Wanted(status=RequestStatus.AWAITING_APPROVAL), "ix_deletion_requests_due"),
        (Wanted(due_before=NOW), "ix_deletion_requests_due"),
        (Wanted(only_open=False), "pk_deletion_requests"),
        (Wanted(only_open=False, reference="t"), "ix_deletion_requests_client_reference"),
    ],
)
@pytest.mark.parametrize("further", [False, True])
def test_a_page_reads_an_index_in_its_order(
    session: Session, wanted: Wanted, index: str, further: bool
) -> None:
    if session.get_bind().dialect.name == "postgresql":
        if wanted.reference:  # which of two indexes is read depends on how rare it is
            data = factories.dataset(session)
            for number in range(300):
                factories.request(
                    session, data, client_reference=f"{'t' if number == 7 else 'a'}-1"
                )
            session.execute(text("ANALYZE deletion_requests"))
        # The few rows of a test would be read whole.
        for slow in ("seqscan", "bitmapscan") + (() if wanted.reference else ("sort",)):
            session.execute(text(f"SET LOCAL enable_{slow} = off"))
    after = None
    if further:
        after = f"{NOW.isoformat()} dr_x" if wanted.by_due_date else "dr_x"
    plan = _plan(session, wanted, after)
    if session.get_bind().dialect.name == "sqlite":
        # A table's own key has a name of SQLite's, and none is named for its whole order.
        index = index.replace("pk_deletion_requests", "sqlite_autoindex_deletion_requests_1")
        assert "TEMP B-TREE" not in plan or wanted.reference, plan
    assert index in plan, plan
    assert "datasets" not in plan  # names are read for the rows of the page alone


def _plan(session: Session, wanted: Wanted, after: str | None) -> str:
    """Return how the database reads a page."""
    sent: list[tuple[str, Any]] = []
    engine = session.get_bind()

    def note(_conn: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        sent.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    try:
        worklist.page(session, wanted, after=after, limit=50)
    finally:
        event.remove(engine, "before_cursor_execute", note)
    [(statement, parameters)] = [one for one in sent if "FROM deletion_requests" in one[0]]
    explain = "EXPLAIN " if engine.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN "
    rows = session.connection().exec_driver_sql(explain + statement, parameters).all()
    return "\n".join(" ".join(str(value) for value in row) for row in rows)


def test_a_page_names_the_dataset_of_each_request_that_has_one(session: Session) -> None:
    asked = {
        factories.request(session, factories.dataset(session, name=name)).id: name
        for name in ("faces", "voices")
    }
    data = session.scalars(select(Dataset)).first()
    anywhere = factories.request(session, data, rows=[], dataset_id=None, kind="subject")
    page = worklist.page(session, Wanted(), after=None, limit=50)
    assert {one["id"]: one["dataset"] for one in page} == {**asked, anywhere.id: None}


def test_open_requests_are_counted_by_state_up_to_a_limit(session: Session) -> None:
    data = factories.dataset(session)
    for number, status in enumerate(
        [RequestStatus.ACCEPTED] * 3 + [RequestStatus.NEEDS_REVIEW, RequestStatus.COMPLETED]
    ):
        factories.request(session, data, status=status, due_at=NOW + timedelta(days=number))
    assert worklist.count_open(session, up_to=10) == {
        RequestStatus.ACCEPTED: 3,
        RequestStatus.NEEDS_REVIEW: 1,
    }
    assert worklist.count_open(session, up_to=2) == {RequestStatus.ACCEPTED: 2}
