"""Erasures: their moves, and where those of a batch are found."""

from __future__ import annotations

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger.database.states import (
    REQUEST_ENDS,
    BatchStatus,
    ErasureStatus,
    IllegalMove,
    RequestStatus,
)
from service.ledger.database.tables import AuditEvent, Dataset, DeletionRequest, Erasure, Model
from service.ledger.obligations import erasures, shares
from tests import factories
from tests.service.ledger.obligations.excluded import asked


def test_completed_share_never_moves_again(session: Session, data: Dataset, model: Model) -> None:
    share = factories.erasure(
        session, asked(session, data, 1), model, status=ErasureStatus.COMPLETED
    )
    with pytest.raises(IllegalMove):
        erasures.release(share)
    with pytest.raises(IllegalMove):
        erasures.claim(session, model, [share], batch_id="b_1")


def test_erasures_of_a_batch_are_found_where_its_members_lie(
    session: Session, data: Dataset, model: Model
) -> None:
    base = factories.version(session, model)
    made = [
        factories.erasure(session, asked(session, data, row), model, id=id)
        for row, id in enumerate((3, 4, 90, 1000, 1001, 5000))
    ]
    members = [made[n] for n in (0, 2, 3, 5)]
    batch = factories.batch(session, model, base, members=erasures.ranges(members))
    for share in members:
        share.batch_id = batch.id
    session.flush()
    assert batch.members == [[3, 90], [1000, 1000], [5000, 5000]]
    found = session.scalars(select(Erasure).where(erasures.of_batch(batch)).order_by(Erasure.id))
    assert found.all() == members
    nobodys = factories.batch(session, model, base, members=[], status=BatchStatus.FAILED)
    assert session.scalars(select(Erasure).where(erasures.of_batch(nobodys))).all() == []


def test_erasures_of_a_batch_are_found_however_far_apart_their_ids_are(
    session: Session, data: Dataset, model: Model
) -> None:
    # As on a dataset with many models: each request has an erasure on every one of them.
    places = [n * 200 + n % 7 + beside for n in range(1, 1500) for beside in (0, 3)]
    members = [Erasure(id=place) for place in places]
    ends = erasures.ranges(members)
    assert ends == sorted(ends)
    assert all(any(first <= one <= last for first, last in ends) for one in places)
    batch = factories.batch(session, model, factories.version(session, model), members=ends)
    share = factories.erasure(
        session, asked(session, data, 0), model, id=places[700], batch_id=batch.id
    )
    assert session.scalars(select(Erasure).where(erasures.of_batch(batch))).all() == [share]


def test_an_erasure_that_is_put_aside_says_so_in_the_chain(
    session: Session, data: Dataset, model: Model
) -> None:
    request = asked(session, data, 1)
    request.status = RequestStatus.PROCESSING
    share = factories.erasure(session, request, model, status=ErasureStatus.CLAIMED)
    erasures.put_aside(session, share, error="too large", actor="worker:w")
    session.commit()
    assert (share.status, request.status) == (
        ErasureStatus.NEEDS_REVIEW,
        RequestStatus.NEEDS_REVIEW,
    )
    lines = session.scalars(
        select(AuditEvent.action).where(AuditEvent.subject == f"deletion_request:{request.id}")
    )
    assert lines.all() == ["deletion_request:needs_review"]


@pytest.mark.parametrize("state", list(ErasureStatus))
def test_database_knows_which_erasures_are_open(
    session: Session, data: Dataset, model: Model, state: ErasureStatus
) -> None:
    factories.erasure(session, asked(session, data, 0), model, status=state)
    assert session.scalar(select(Erasure.is_open)) == (state in shares.OPEN)


@pytest.mark.parametrize("state", list(RequestStatus))
def test_database_knows_which_requests_are_open(
    session: Session, data: Dataset, state: RequestStatus
) -> None:
    factories.request(session, data, status=state)
    assert session.scalar(select(DeletionRequest.is_open)) == (state not in REQUEST_ENDS)
