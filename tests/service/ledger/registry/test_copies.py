"""What is to be done in a model registry follows from what is live and what is out of service."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger.audit import chain
from service.ledger.database import db
from service.ledger.database.states import VersionStatus
from service.ledger.database.tables import AuditEvent, Model, RegistryCopy, Version
from service.ledger.destruction import withdrawals
from service.ledger.registry import copies, versions
from service.ledger.registry.copies import Step
from tests import factories

EVERY = (Step.REMOVE, Step.POINT, Step.REGISTER)


def _due(session: Session) -> list[tuple[Step, int]]:
    return [(one.step, one.version) for one in copies.due(session, *EVERY, now=db.now())]


def _do(session: Session, step: Step) -> None:
    [work] = copies.due(session, step, now=db.now())
    if step == Step.REGISTER:
        assert copies.begin(session, work, now=db.now())
    copies.done(session, work, number="7", actor="worker:w", now=db.now())


def _live(session: Session, model: Model) -> Version:
    """A further version that is live; the one before contains forgotten records."""
    before = session.get(Version, model.production_id) if model.production_id else None
    made = factories.version(session, model)
    if before is not None:
        versions.retire(session, model, before, actor="worker:w", now=db.now())
        session.flush()
    return made


@pytest.fixture
def model(session: Session) -> Model:
    return factories.model(session, factories.dataset(session), name="who")


def test_a_live_version_is_registered_then_pointed_at_and_removed_when_it_is_retired(
    session: Session, model: Model
) -> None:
    first = _live(session, model)
    factories.version(session, model, production=False)  # published, and was never live
    factories.version(session, model, production=False, status=VersionStatus.CANDIDATE)
    assert _due(session) == [(Step.REGISTER, 1)]
    _do(session, Step.REGISTER)
    assert _due(session) == [(Step.POINT, 1)]
    _do(session, Step.POINT)
    assert _due(session) == []
    _live(session, model)
    assert _due(session) == [(Step.REMOVE, 1), (Step.REGISTER, 4)]
    for step in (Step.REGISTER, Step.POINT):
        _do(session, step)
    assert not session.get_one(RegistryCopy, first.id).is_live
    _do(session, Step.REMOVE)
    assert _due(session) == []


def test_the_alias_goes_back_with_production_without_a_second_copy(
    session: Session, model: Model
) -> None:
    first = _live(session, model)
    for step in (Step.REGISTER, Step.POINT):
        _do(session, step)
    factories.version(session, model)  # live, and the first one may come back
    for step in (Step.REGISTER, Step.POINT):
        _do(session, step)
    model.production_id = first.id
    session.flush()
    assert _due(session) == [(Step.POINT, 1)]


def test_a_version_that_is_withdrawn_while_it_is_copied_is_to_be_removed(
    session: Session, model: Model
) -> None:
    _live(session, model)
    [work] = copies.due(session, Step.REGISTER, now=db.now())
    assert copies.begin(session, work, now=db.now())
    session.commit()
    withdrawals.withdraw_model(session, model, actor="cli", now=db.now())
    session.commit()
    assert _due(session) == [(Step.REMOVE, 1)]
    copies.done(session, work, number="7", actor="worker:w", now=db.now())
    assert _due(session) == [(Step.REMOVE, 1)]
    _do(session, Step.REMOVE)
    assert _due(session) == []
    assert not copies.begin(session, work, now=db.now())  # a worker that looked before


def test_the_list_tells_what_is_to_be_done_with_each_copy(session: Session, model: Model) -> None:
    def told() -> list[tuple[int, Step | None, bool]]:
        return [(one.version, one.step, one.is_live) for one in copies.listing(session)]

    now = db.now()
    first = _live(session, model)
    assert told() == []
    [work] = copies.due(session, Step.REGISTER, now=now)
    assert copies.begin(session, work, now=now)
    assert told() == [(1, Step.REGISTER, False)]
    _do(session, Step.REGISTER)
    assert told() == [(1, Step.POINT, False)]
    _do(session, Step.POINT)
    assert told() == [(1, None, True)]
    second = factories.version(session, model)  # the first one stays published
    for step in (Step.REGISTER, Step.POINT):
        _do(session, step)
    assert told() == [(1, None, False), (2, None, True)]
    versions.retire(session, model, first, actor="worker:w", now=now)
    session.flush()
    assert told() == [(1, Step.REMOVE, False), (2, None, True)]
    assert copies.listing(session, stuck=True) == []
    [work] = copies.due(session, Step.REMOVE, now=now)
    copies.failed(session, work, error="it does not answer", not_before=now, now=now)
    [stuck] = copies.listing(session, stuck=True)
    assert (stuck.version, stuck.failures, stuck.error) == (1, 1, "it does not answer")
    assert stuck.failing_since == now
    _do(session, Step.REMOVE)
    assert told() == [(second.number, None, True)]


def test_a_failed_step_waits_and_is_counted_by_what_it_is_about(
    session: Session, model: Model
) -> None:
    now = db.now()
    _live(session, model)
    [work] = copies.due(session, Step.REGISTER, now=now)
    copies.begin(session, work, now=now)
    assert copies.numbers(session, now=now) == copies.Numbers(
        {"registered": 0, "to_register": 1, "to_remove": 0}, 0.0, 0.0
    )
    for attempt in (1, 2):
        copies.failed(
            session, work, error="it did not answer", not_before=now + timedelta(minutes=1), now=now
        )
        session.flush()
        assert copies.failures(session, work) == attempt
    assert _due(session) == []
    assert len(copies.due(session, Step.REGISTER, now=now + timedelta(minutes=2))) == 1
    [stuck] = copies.stuck(session, limit=10)
    assert (stuck.model, stuck.version, stuck.step) == ("who", 1, Step.REGISTER)
    assert (stuck.failures, stuck.error) == (2, "it did not answer")
    later = now + timedelta(hours=2)
    assert copies.numbers(session, now=later).failing_seconds == 7200.0
    copies.done(session, work, number="7", actor="worker:w", now=later)
    session.flush()
    assert copies.stuck(session, limit=10) == []
    session.commit()
    withdrawals.withdraw_model(session, model, actor="cli", now=now)
    session.flush()
    seen = copies.numbers(session, now=later)
    assert (seen.copies["to_remove"], seen.failing_seconds) == (1, 0.0)
    assert seen.remaining_seconds == 7200.0


def test_what_the_registry_has_is_compared_with_the_ledger(session: Session, model: Model) -> None:
    first = _live(session, model)
    for step in (Step.REGISTER, Step.POINT):
        _do(session, step)
    known = ("who", 1, first.digest)
    assert copies.returned(session, [known], actor="worker:w") == []  # it is live
    second = _live(session, model)
    assert copies.returned(session, [known], actor="worker:w") == []  # it is to be removed
    _do(session, Step.REMOVE)
    of_others = [("who", 1, "f" * 64), ("who", 9, first.digest), ("whom", 1, first.digest)]
    assert copies.returned(session, of_others, actor="worker:w") == []
    assert copies.names(session) == ["who"]
    [again] = copies.returned(session, [known, *of_others], actor="worker:w")
    assert (again.step, again.version) == (Step.REMOVE, 1)
    assert (Step.REMOVE, 1) in _due(session)
    # A restored backup knows the version and not its copy.
    versions.retire(session, model, second, actor="worker:w", now=db.now())
    [other] = copies.returned(session, [("who", 2, second.digest)], actor="worker:w")
    assert other.version == 2
    session.flush()
    found = select(AuditEvent.subject).where(AuditEvent.action == chain.Action.VERSION_COPY_FOUND)
    assert list(session.scalars(found)) == ["version:who/1", "version:who/2"]
