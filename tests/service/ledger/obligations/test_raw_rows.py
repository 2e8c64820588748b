"""When raw rows may be overwritten, and that they were."""

from __future__ import annotations

import pytest
from sqlalchemy.orm import Session

from service.ledger.database.states import ErasureStatus, RunStatus, VersionStatus
from service.ledger.database.tables import AuditEvent, Dataset, Model
from service.ledger.obligations import raw_rows
from service.ledger.requests import suppressions
from tests import factories
from tests.factories import NOW
from tests.service.ledger.obligations.excluded import asked


@pytest.mark.parametrize(
    ("status", "erasable"),
    [
        (ErasureStatus.PENDING, False),
        (ErasureStatus.CLAIMED, False),
        (ErasureStatus.NEEDS_REVIEW, False),
        (ErasureStatus.COMPLETED, True),
        (ErasureStatus.CANCELLED, True),
    ],
)
def test_raw_row_is_kept_while_an_erasure_is_open(
    session: Session, data: Dataset, model: Model, status: ErasureStatus, erasable: bool
) -> None:
    factories.erasure(session, asked(session, data, 2), model, status=status)
    assert suppressions.about_to_be_erased(session, data)[0] == ([2] if erasable else [])


def test_raw_row_is_kept_for_every_request_that_names_it(
    session: Session, data: Dataset, model: Model
) -> None:
    factories.erasure(session, asked(session, data, 2), model, status=ErasureStatus.COMPLETED)
    again = factories.erasure(session, asked(session, data, 2), model)
    assert suppressions.about_to_be_erased(session, data)[0] == []
    again.status = ErasureStatus.COMPLETED
    session.flush()
    assert suppressions.about_to_be_erased(session, data)[0] == [2]


def test_row_that_nobody_asked_to_forget_is_never_erased(
    session: Session, data: Dataset, model: Model
) -> None:
    assert suppressions.about_to_be_erased(session, data)[0] == []


@pytest.mark.parametrize(
    ("status", "revision", "erasable"),
    [
        (RunStatus.RUNNING, 0, False),  # it has seen the row
        (RunStatus.RUNNING, 1, True),  # it started without it
        (RunStatus.QUEUED, 0, True),  # it will start without it
        (RunStatus.FAILED, 0, True),
    ],
)
def test_raw_row_is_kept_while_a_training_that_saw_it_runs(
    session: Session,
    data: Dataset,
    model: Model,
    status: RunStatus,
    revision: int,
    erasable: bool,
) -> None:
    factories.training_run(session, model, status=status, data_revision=revision)
    factories.erasure(session, asked(session, data, 2), model, status=ErasureStatus.COMPLETED)
    assert suppressions.about_to_be_erased(session, data)[0] == ([2] if erasable else [])


@pytest.mark.parametrize("status", [VersionStatus.CANDIDATE, VersionStatus.REJECTED])
def test_raw_row_is_kept_while_a_fresh_anchor_has_to_catch_up(
    session: Session, data: Dataset, model: Model, status: VersionStatus
) -> None:
    factories.version(session, model, production=False, status=status, data_revision=0)
    factories.erasure(session, asked(session, data, 2), model, status=ErasureStatus.COMPLETED)
    waiting = status == VersionStatus.CANDIDATE
    assert suppressions.about_to_be_erased(session, data)[0] == ([] if waiting else [2])


def test_rows_are_marked_once_whoever_overwrote_them(
    session: Session, data: Dataset, model: Model
) -> None:
    factories.erasure(session, asked(session, data, 1, 2), model, status=ErasureStatus.COMPLETED)
    for worker in ("a", "b"):
        raw_rows.mark_erased(session, data, [1, 2], now=NOW, actor=f"worker:{worker}")
    session.commit()
    lines = session.query(AuditEvent).filter_by(action="records:erased").all()
    assert [(line.actor, line.data) for line in lines] == [("worker:a", {"rows": 2})]
