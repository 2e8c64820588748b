"""Due dates: by regulation, warned of once each, extended with a reason."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from service.ledger.audit import chain
from service.ledger.database import db
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import AuditEvent, DeletionRequest, RequestRecord
from service.ledger.requests import deadlines, intake, lifecycle, lookup
from service.ledger.requests.deadlines import ExtensionReason, NotExtendable
from service.ledger.selection.matching import Ask
from service.ledger.selection.regulations import Period, Regulation
from service.ledger.webhooks import events
from tests import factories
from tests.factories import NOW

DAY = timedelta(days=1)


def ask(session: Session, period: Period | None = None) -> DeletionRequest:
    data = factories.dataset(session)
    factories.version(session, factories.model(session, data))
    receipt = intake.record(
        session,
        Ask(data.name, "records", record_ids=("r1",), period=period or Period()),
        principal="key_crm",
        digester=factories.DIGESTER,
        now=NOW,
    )
    session.commit()
    return lookup.get(session, receipt.answer["id"])


def warn(session: Session, now: datetime) -> list[tuple[str, object]]:
    """Look at the due dates; return what was told, as events."""
    last = session.scalar(select(AuditEvent.seq).order_by(AuditEvent.seq.desc()).limit(1)) or 0
    deadlines.warn(session, actor="worker:w", now=now)
    session.commit()
    lines = session.scalars(
        select(AuditEvent).where(AuditEvent.seq > last).order_by(AuditEvent.seq)
    )
    told = [event for line in lines if (event := events.of_line(line))]
    return [(one.type.value.rpartition(".")[2], one.data.get("within_days")) for one in told]


def extend(
    session: Session, request: DeletionRequest, *, periods: int = 1, now: datetime = NOW
) -> DeletionRequest:
    return deadlines.extend(
        session,
        request.id,
        periods=periods,
        because=ExtensionReason.COMPLEXITY,
        reason="many systems hold it",
        actor="key:key_dpo",
        now=now,
    )


@pytest.mark.parametrize(
    ("period", "extensions", "due"),
    [
        (Period(), 0, datetime(2026, 2, 28, 9, tzinfo=UTC)),
        (Period(), 1, datetime(2026, 3, 31, 9, tzinfo=UTC)),
        (Period(), 2, datetime(2026, 4, 30, 9, tzinfo=UTC)),
        (Period(Regulation.CCPA), 0, datetime(2026, 3, 17, 9, tzinfo=UTC)),
        (Period(Regulation.CCPA), 1, datetime(2026, 5, 1, 9, tzinfo=UTC)),
        (Period(Regulation.CUSTOM, 10), 0, datetime(2026, 2, 10, 9, tzinfo=UTC)),
    ],
)
def test_a_period_ends_as_its_regulation_says(
    period: Period, extensions: int, due: datetime
) -> None:
    asked = datetime(2026, 1, 31, 9, tzinfo=UTC)
    assert period.due(asked, extensions=extensions) == due


def test_a_custom_period_needs_its_days() -> None:
    with pytest.raises(ValueError, match="number of days"):
        Period(Regulation.CUSTOM).due(NOW)


def test_a_request_is_due_by_the_regulation_that_it_names(session: Session) -> None:
    by = {one: ask(session, Period(one, 9)) for one in Regulation}
    assert {one: request.due_at - NOW for one, request in by.items()} == {
        Regulation.GDPR: 31 * DAY,
        Regulation.CCPA: 45 * DAY,
        Regulation.CUSTOM: 9 * DAY,
    }
    shown = lookup.detail(session, by[Regulation.CCPA])
    assert (shown["regulation"], shown["extensions"]) == ("ccpa", 0)
    assert by[Regulation.CUSTOM].expected_by <= by[Regulation.CUSTOM].due_at


def test_each_warning_is_given_once(session: Session) -> None:
    due = ask(session).due_at
    assert warn(session, due - 7 * DAY - timedelta(seconds=1)) == []
    for before, told in (
        (7 * DAY, ("due_soon", 7)),
        (2 * DAY, ("due_soon", 2)),
        (0 * DAY, ("overdue", None)),
    ):
        assert warn(session, due - before) == [told]
        assert warn(session, due - before) == []
    assert warn(session, due + 90 * DAY) == []


def test_warnings_that_were_missed_are_one(session: Session) -> None:
    due = ask(session).due_at
    assert warn(session, due - DAY) == [("due_soon", 2)]
    assert warn(session, due + DAY) == [("overdue", None)]


def test_only_open_requests_are_warned_of(session: Session) -> None:
    data = factories.dataset(session)
    for status in RequestStatus:
        factories.request(session, data, status=status, due_at=NOW)
    session.commit()
    told = warn(session, NOW + DAY)
    assert told == [("overdue", None)] * 4
    warned = session.scalars(
        select(DeletionRequest.status).where(DeletionRequest.warnings.is_not(None))
    )
    assert set(warned) == {
        RequestStatus.AWAITING_APPROVAL,
        RequestStatus.ACCEPTED,
        RequestStatus.PROCESSING,
        RequestStatus.NEEDS_REVIEW,
    }


def test_many_are_warned_of_in_several_transactions(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadlines, "AT_ONCE", 2)
    data = factories.dataset(session)
    for _ in range(5):
        factories.request(session, data, due_at=NOW)
    session.commit()
    assert [len(warn(session, NOW)) for _ in range(4)] == [2, 2, 1, 0]


@pytest.mark.postgres
def test_a_request_that_others_change_is_warned_of_later(postgres_database: Engine) -> None:
    sessions = db.session_factory(postgres_database)
    with sessions() as session:
        request_id = ask(session).id
    with sessions() as other, sessions() as session:
        row = other.get(DeletionRequest, request_id, with_for_update=True)
        assert row is not None
        assert warn(session, row.due_at) == []
        other.rollback()
        assert warn(session, row.due_at) == [("overdue", None)]


def test_an_extension_moves_the_due_date_and_is_told_and_warned_of_anew(session: Session) -> None:
    request = ask(session)
    first = request.due_at
    assert warn(session, first - DAY) == [("due_soon", 2)]
    extend(session, request, now=first - DAY)
    session.commit()
    assert request.due_at == datetime(2026, 5, 1, 12, tzinfo=UTC)
    line = session.scalars(select(AuditEvent).order_by(AuditEvent.seq.desc()).limit(1)).one()
    assert line.action == chain.Action.DELETION_REQUEST_EXTENDED
    assert line.data["because"] == "complexity"
    assert "many systems" not in str(line.data)
    event = events.of_line(line)
    assert event is not None
    assert event.data["due_at"] == "2026-05-01T12:00:00.000000Z"
    shown = lookup.detail(session, request)
    assert (shown["extensions"], shown["extension_reason"]) == (1, "many systems hold it")
    assert warn(session, first + DAY) == []
    assert warn(session, request.due_at - 7 * DAY) == [("due_soon", 7)]


def test_the_gdpr_allows_two_more_months_in_all(session: Session) -> None:
    request = ask(session)
    extend(session, request)
    extend(session, request)
    assert request.due_at == datetime(2026, 6, 1, 12, tzinfo=UTC)
    with pytest.raises(NotExtendable, match="0 are left"):
        extend(session, request)
    with pytest.raises(NotExtendable, match="2 are left"):
        extend(session, ask(session), periods=3)


@pytest.mark.parametrize(
    ("period", "most"), [(Period(Regulation.CCPA), 1), (Period(Regulation.CUSTOM, 9), 0)]
)
def test_other_regulations_allow_less(session: Session, period: Period, most: int) -> None:
    request = ask(session, period)
    for _ in range(most):
        extend(session, request)
    with pytest.raises(NotExtendable):
        extend(session, request)
    assert request.extensions == (most or None)


def test_an_extension_never_brings_the_due_date_forward(session: Session) -> None:
    request = ask(session)  # as recorded before requests had a regulation, with a long period
    request.regulation, request.due_at = None, NOW + 100 * DAY
    session.commit()
    with pytest.raises(NotExtendable, match="later than"):
        extend(session, request, periods=2)
    assert (request.due_at, request.extensions) == (NOW + 100 * DAY, None)


def test_what_has_ended_or_is_overdue_is_not_extended(session: Session) -> None:
    request = ask(session)
    with pytest.raises(NotExtendable, match="has passed"):
        extend(session, request, now=request.due_at)
    lifecycle.cancel(session, request.id, actor="key:k")
    session.commit()
    with pytest.raises(NotExtendable, match="cancelled"):
        extend(session, request)
    assert request.extensions is None


@pytest.mark.postgres
def test_a_warning_keeps_nobody_from_adding_to_the_request(postgres_database: Engine) -> None:
    sessions = db.session_factory(postgres_database)
    with sessions.begin() as setup:
        data = factories.dataset(setup)
        request = factories.request(setup, data, rows=[0], due_at=NOW + DAY)
    with sessions.begin() as warning, sessions.begin() as other:
        assert deadlines.warn(warning, actor="worker:w", now=NOW) == 1
        other.execute(text("SET LOCAL lock_timeout = '200ms'"))
        other.add(RequestRecord(request_id=request.id, dataset_id=data.id, row=1))
