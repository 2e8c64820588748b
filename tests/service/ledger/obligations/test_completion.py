"""When a request is at its end."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from service.ledger.database import db
from service.ledger.database.states import ErasureStatus, RequestStatus
from service.ledger.database.tables import Dataset, Model, Record
from service.ledger.obligations import completion, raw_rows
from service.ledger.requests import lookup
from service.ledger.selection import exclusions, naming
from tests import factories
from tests.factories import NOW
from tests.service.ledger.obligations.excluded import asked


def test_rows_of_a_class_stay_the_requests_when_the_clock_went_back(
    session: Session, data: Dataset
) -> None:
    session.get_one(Record, (data.id, 0)).erased_at = NOW - timedelta(hours=1)
    request = factories.request(
        session, data, rows=(), kind="class", label=0, status=RequestStatus.PROCESSING
    )
    exclusions.exclude(session, data.id, naming.Names.of([request]))
    earlier = NOW - timedelta(minutes=1)
    raw_rows.mark_erased(session, data, [3], now=earlier, actor="worker:a")
    assert lookup.rows(session, request.id) == [3]
    assert completion.settle(session, now=earlier, actor="worker:a") == [request.id]
    assert lookup.rows(session, request.id) == [3]


def test_request_ends_when_every_share_is_done_and_every_row_is_erased(
    session: Session, data: Dataset, model: Model
) -> None:
    request = asked(session, data, 1, 2)
    share = factories.erasure(session, request, model)
    assert completion.settle(session, now=NOW, actor="w") == []
    share.status = ErasureStatus.COMPLETED
    session.flush()
    assert completion.settle(session, now=NOW, actor="w") == []
    raw_rows.mark_erased(session, data, [1], now=NOW, actor="w")
    assert completion.settle(session, now=NOW, actor="w") == []
    raw_rows.mark_erased(session, data, [2], now=NOW, actor="w")
    assert completion.settle(session, now=NOW, actor="w") == [request.id]
    assert completion.settle(session, now=NOW, actor="w") == []
    assert (request.status, request.completed_at) == (RequestStatus.COMPLETED, NOW)


@pytest.mark.postgres
def test_request_that_another_worker_completes_at_this_moment_is_no_move(
    postgres_database: Engine,
) -> None:
    """The second finds it ready, and then locked: it has nothing to say in the audit chain."""
    with db.session_factory(postgres_database).begin() as session:
        data = factories.dataset(session, rows=6)
        request = asked(session, data, 2)
        raw_rows.mark_erased(session, data, [2], now=NOW, actor="w")
        request_id = request.id
    begin = db.session_factory(postgres_database).begin
    with begin() as first:
        assert completion.settle(first, now=NOW, actor="w1") == [request_id]
        with begin() as second:
            assert completion.settle(second, now=NOW, actor="w2") == []
