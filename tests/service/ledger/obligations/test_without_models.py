"""Requests that concern no model."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from service.errors import Conflict
from service.ledger.database import db
from service.ledger.database.states import RequestStatus, RunStatus
from service.ledger.database.tables import Dataset, DeletionRequest, Erasure, Record
from service.ledger.obligations import completion, raw_rows, without_models
from service.ledger.requests import lifecycle, suppressions
from tests import factories
from tests.factories import NOW


def test_request_without_models_is_excluded_and_settled(session: Session, data: Dataset) -> None:
    request = factories.request(session, data, rows=[3])
    assert sorted(session.scalars(without_models.datasets(NOW))) == [data.id]
    assert without_models.exclude(session, data.id, now=NOW, actor="worker:w") == [request.id]
    assert sorted(session.scalars(without_models.datasets(NOW))) == []
    session.refresh(data)
    assert (request.status, data.revision) == (RequestStatus.PROCESSING, 1)
    assert suppressions.about_to_be_erased(session, data)[0] == [3]
    raw_rows.mark_erased(session, data, [3], now=NOW, actor="w")
    assert completion.settle(session, now=NOW, actor="w") == [request.id]


@pytest.mark.parametrize("status", [RunStatus.FAILED, RunStatus.QUEUED])
def test_share_of_a_model_whose_only_training_ended_is_needless(
    session: Session, data: Dataset, status: RunStatus
) -> None:
    """Otherwise the request would wait for ever for a model that knows nothing."""
    model = factories.model(session, data)
    run = factories.training_run(session, model, status=RunStatus.RUNNING)
    request = factories.request(session, data, rows=[3])
    factories.erasure(session, request, model)
    assert sorted(session.scalars(without_models.datasets(NOW))) == []
    run.status = status
    session.flush()
    assert sorted(session.scalars(without_models.datasets(NOW))) == [data.id]
    assert without_models.exclude(session, data.id, now=NOW, actor="worker:w") == [request.id]
    assert session.query(Erasure).count() == 0


def test_excluding_a_request_without_models_and_cancelling_it_exclude_each_other(
    database: Engine,
) -> None:
    sessions = db.session_factory(database)
    with sessions() as session, session.begin():
        data = factories.dataset(session, rows=8)
        ids = [factories.request(session, data, rows=[row]).id for row in range(8)]
    start = threading.Barrier(2)
    cancelled = []

    def cancel() -> None:
        start.wait()
        for request_id in reversed(ids):
            try:
                with sessions() as mine, mine.begin():
                    lifecycle.cancel(mine, request_id, actor="key:k")
                cancelled.append(request_id)
            except Conflict:
                pass

    thread = threading.Thread(target=cancel)
    thread.start()
    start.wait()
    with sessions() as session, session.begin():
        for dataset_id in sorted(session.scalars(without_models.datasets(NOW))):
            without_models.exclude(session, dataset_id, now=NOW, actor="worker:w")
    thread.join()
    with sessions() as session:
        for row, request_id in enumerate(ids):
            status = session.get_one(DeletionRequest, request_id).status
            excluded = session.get_one(Record, (1, row)).excluded_revision is not None
            if request_id in cancelled:
                assert (status, excluded) == (RequestStatus.CANCELLED, False)
            else:
                assert status in (RequestStatus.PROCESSING, RequestStatus.ACCEPTED)
                assert excluded == (status == RequestStatus.PROCESSING)
