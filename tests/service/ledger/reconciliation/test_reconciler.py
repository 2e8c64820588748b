"""What the check finds broken, and that its repair opens the missing work."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from sqlalchemy import delete, event, select
from sqlalchemy.orm import Session

from service.ledger.audit import chain
from service.ledger.database.states import ErasureStatus, RequestStatus, VersionStatus
from service.ledger.database.tables import (
    AuditEvent,
    BatchRecord,
    Dataset,
    DeletionRequest,
    Erasure,
    Model,
    Record,
    Version,
)
from service.ledger.obligations import completion, raw_rows
from service.ledger.reconciliation import findings, reconciler
from service.ledger.reconciliation.findings import Finding, Kind
from service.ledger.registry import lineage, versions
from service.ledger.requests import lookup, suppressions
from service.ledger.selection import exclusions, naming
from tests import factories
from tests.factories import NOW

Change = Callable[[Session, Dataset, Version], None]


@pytest.fixture
def data(session: Session) -> Dataset:
    return factories.dataset(session, rows=6)


def _live(session: Session, data: Dataset) -> tuple[Model, Version]:
    model = factories.model(session, data)
    version = factories.version(session, model, production=False)
    versions.promote(
        session, model, version, expected_production=None, reason="x", actor="w", now=NOW
    )
    return model, version


def _forgotten(
    session: Session, data: Dataset, *done: tuple[Model, Version], row: int = 2
) -> DeletionRequest:
    """A request that was completed on these models, from the exclusion to the audit line."""
    asked = factories.request(session, data, rows=[row], status=RequestStatus.PROCESSING)
    exclusions.exclude(session, data.id, naming.Names.of([asked]))
    session.expire_all()
    for model, base in done:
        batch = factories.batch(session, model, base, rows=[row], status="completed")
        made = factories.version(session, model, parent=base, production=False, batch_id=batch.id)
        factories.erasure(session, asked, model, status=ErasureStatus.COMPLETED, version_id=made.id)
        versions.promote(
            session, model, made, expected_production=base.id, reason="x", actor="w", now=NOW
        )
    raw_rows.mark_erased(session, data, [row], now=NOW, actor="w")
    assert completion.settle(session, now=NOW, actor="w") == [asked.id]
    session.commit()
    return asked


def _look(session: Session) -> list[Finding]:
    """As the background check does it, first without and then with the repair."""
    session.commit()
    changes = reconciler.changes(session)
    found = reconciler.broken_by(session, changes)
    assert found == findings.everything(session)
    assert reconciler.repair(session, found, actor="worker:w", now=NOW) == found
    reconciler.looked(session, changes.until, now=NOW)
    session.commit()
    return found


def _kinds(found: list[Finding]) -> set[Kind]:
    return {one.kind for one in found}


def _actions(session: Session, subject: str) -> list[str]:
    wanted = select(AuditEvent.action).where(AuditEvent.subject == subject)
    return list(session.scalars(wanted.order_by(AuditEvent.seq)))


def test_nothing_is_broken_after_a_deletion_as_it_should_be(
    session: Session, data: Dataset
) -> None:
    live = [_live(session, data), _live(session, data)]
    factories.model(session, data)
    asked = _forgotten(session, data, *live)
    late = factories.model(session, data)  # trained after the deletion
    version = factories.version(session, late, production=False, data_revision=1)
    versions.promote(
        session, late, version, expected_production=None, reason="x", actor="w", now=NOW
    )
    assert _look(session) == []
    assert session.get_one(DeletionRequest, asked.id).status == RequestStatus.COMPLETED


def test_live_version_that_was_missed_gets_its_erasure(session: Session, data: Dataset) -> None:
    seen, missed = _live(session, data), _live(session, data)
    asked = _forgotten(session, data, seen)
    found = _look(session)
    assert _kinds(found) == {Kind.HELD, Kind.NOT_FORGOTTEN}
    assert {one.request for one in found} == {asked.id}
    session.refresh(asked)
    assert (asked.status, asked.completed_at) == (RequestStatus.PROCESSING, None)
    share = session.scalars(select(Erasure).filter_by(model_id=missed[0].id)).one()
    assert (share.request_id, share.status) == (asked.id, ErasureStatus.PENDING)
    assert missed[1].status == VersionStatus.PUBLISHED  # until the batch has another one live
    assert _actions(session, f"deletion_request:{asked.id}")[-1] == "deletion_request:reopened"
    assert _actions(session, "ledger") == ["ledger:reconciled"]
    assert _look(session) == []


def test_erasure_completed_with_a_version_that_holds_the_record_is_opened_again(
    session: Session, data: Dataset
) -> None:
    model, version = _live(session, data)
    asked = _forgotten(session, data, (model, version))
    model.production_id = version.id
    version.status, version.retired_at = VersionStatus.PUBLISHED, None
    chain.append(
        session,
        actor="w",
        action=chain.Action.VERSION_PROMOTED,
        subject=versions.subject(model, version),
        data={},
    )
    assert _kinds(_look(session)) == {Kind.HELD}
    share = session.scalars(select(Erasure).filter_by(request_id=asked.id)).one()
    assert (share.status, share.version_id) == (ErasureStatus.PENDING, None)
    session.refresh(asked)
    assert asked.status == RequestStatus.PROCESSING


def test_version_that_is_not_live_is_withdrawn(session: Session, data: Dataset) -> None:
    live = _live(session, data)
    idle = factories.model(session, data)
    imported = factories.version(session, idle, production=False)
    asked = _forgotten(session, data, live)
    assert _kinds(_look(session)) == {Kind.HELD}
    session.refresh(imported)
    assert imported.status == VersionStatus.RETIRED
    session.refresh(asked)
    assert asked.status == RequestStatus.COMPLETED  # nothing else is left to do
    assert _look(session) == []


def test_model_that_was_retrained_without_being_asked_still_gets_its_erasure(
    session: Session, data: Dataset
) -> None:
    seen, (model, old) = _live(session, data), _live(session, data)
    asked = _forgotten(session, data, seen)
    fresh = factories.version(session, model, production=False, data_revision=1)
    versions.promote(
        session, model, fresh, expected_production=old.id, reason="x", actor="w", now=NOW
    )
    assert old.status == VersionStatus.RETIRED
    assert _kinds(_look(session)) == {Kind.NOT_FORGOTTEN}
    share = session.scalars(select(Erasure).filter_by(model_id=model.id)).one()
    assert (share.request_id, share.status) == (asked.id, ErasureStatus.PENDING)


@pytest.mark.parametrize("excluded", [True, False])
def test_raw_row_that_stands_is_erased_after_all(
    session: Session, data: Dataset, excluded: bool
) -> None:
    asked = _forgotten(session, data)
    record = session.get_one(Record, (data.id, 2))
    record.erased_at = None
    if not excluded:
        record.excluded_revision = None
    assert _kinds(_look(session)) == {Kind.STANDING}
    session.expire_all()
    assert suppressions.about_to_be_erased(session, data)[0] == [2]
    raw_rows.mark_erased(session, data, [2], now=NOW, actor="w")
    assert completion.settle(session, now=NOW, actor="w") == [asked.id]
    assert _look(session) == []


def test_open_erasure_opens_its_completed_request(session: Session, data: Dataset) -> None:
    live = _live(session, data)
    asked = _forgotten(session, data, live)
    late = factories.model(session, data)
    factories.version(session, late, data_revision=1)
    factories.erasure(session, asked, late)
    assert _kinds(_look(session)) == {Kind.UNFINISHED}
    session.refresh(asked)
    assert asked.status == RequestStatus.PROCESSING
    assert lookup.count_open(session, up_to=10) == 1


def test_finding_that_no_longer_stands_is_left_alone(session: Session, data: Dataset) -> None:
    seen, missed = _live(session, data), _live(session, data)
    asked = _forgotten(session, data, seen)
    found = findings.everything(session)
    assert reconciler.repair(session, found, actor="w", now=NOW) == found
    assert reconciler.repair(session, found, actor="w", now=NOW) == []
    assert missed[0].production_id == missed[1].id
    assert _actions(session, f"deletion_request:{asked.id}").count("deletion_request:reopened") == 1


def test_looks_go_on_when_the_clock_was_set_back(session: Session, data: Dataset) -> None:
    before = NOW - timedelta(days=300)
    _look(session)
    assert reconciler.is_due(session, now=before)
    step = reconciler.prove_more(session, now=before)
    assert step is not None
    reconciler.proven(session, step, now=before)
    assert not reconciler.is_due(session, now=before + timedelta(hours=23))
    action = chain.Action.DATASET_INGESTED
    chain.append(session, actor="w", action=action, subject="dataset:a", data={})
    session.commit()
    assert reconciler.is_due(session, now=before)


def test_look_is_due_at_once_after_a_promotion_and_else_each_minute(
    session: Session, data: Dataset
) -> None:
    assert not reconciler.is_due(session, now=NOW)
    live = _live(session, data)
    session.commit()
    assert reconciler.is_due(session, now=NOW)
    _look(session)
    assert not reconciler.is_due(session, now=NOW + timedelta(hours=23))  # nothing was written
    reconciler.looked(session, reconciler.changes(session).until, now=NOW)
    chain.append(session, actor="w", action=chain.Action.KEY_CREATED, subject="key:key_x", data={})
    session.commit()
    assert not reconciler.is_due(session, now=NOW + timedelta(seconds=59))
    assert reconciler.is_due(session, now=NOW + timedelta(seconds=60))
    _forgotten(session, data, live)
    assert reconciler.is_due(session, now=NOW)


def test_look_goes_on_where_the_last_one_stopped(
    session: Session, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "LINES_AT_ONCE", 2)
    seen, _ = _live(session, data), _live(session, data)
    asked = _forgotten(session, data, seen)
    touched: set[str] = set()
    while (changes := reconciler.changes(session)).lines:
        assert changes.lines <= 2
        touched |= set(changes.requests)
        reconciler.looked(session, changes.until, now=NOW)
    assert touched == {asked.id}


def test_look_costs_as_much_however_much_was_forgotten_before(
    session: Session, data: Dataset
) -> None:
    """Two statements to know that nothing is new; a few per live version for what is."""
    model, version = _live(session, data)
    costs = []
    for row in range(4):
        [version] = session.scalars(select(Version).filter_by(id=model.production_id)).all()
        _forgotten(session, data, (model, version), row=row)
        costs.append(_statements(session))
        reconciler.looked(session, reconciler.changes(session).until, now=NOW)
        session.commit()
    assert costs[1:] == [costs[1]] * 3
    assert costs[1] <= 20
    statements: list[str] = []
    _counted(session, statements)
    assert not reconciler.is_due(session, now=NOW + timedelta(hours=23))
    assert len(statements) == 2


def _put_back(session: Session, data: Dataset, live: Version) -> None:
    session.get_one(Record, (data.id, 2)).erased_at = None


def _say_clean(session: Session, data: Dataset, live: Version) -> None:
    """The batch that forgot row 2 is gone, and the version says that it is clean of everything."""
    session.execute(delete(BatchRecord).where(BatchRecord.row == 2))
    live.clean_revision = data.revision


@pytest.mark.parametrize(
    ("change", "kinds"), [(_put_back, {Kind.STANDING}), (_say_clean, {Kind.HELD})]
)
def test_what_leaves_no_line_in_the_chain_is_found_by_the_full_proof_of_the_next_day(
    session: Session, data: Dataset, change: Change, kinds: set[Kind]
) -> None:
    model, anchor = _live(session, data)
    asked = _forgotten(session, data, (model, anchor))
    assert _look(session) == []
    session.expire_all()
    change(session, data, session.get_one(Version, model.production_id))
    session.commit()
    assert reconciler.changes(session).lines == 0
    assert not reconciler.is_due(session, now=NOW + timedelta(hours=23))
    tomorrow = NOW + timedelta(days=1)
    found = _full_proof(session, now=tomorrow)
    assert (_kinds(found), {one.request for one in found}) == (kinds, {asked.id})
    assert reconciler.repair(session, found, actor="w", now=tomorrow) == found
    assert session.get_one(DeletionRequest, asked.id).status == RequestStatus.PROCESSING
    # No batch would find the row in a version that still says it is clean of it.
    live = session.get_one(Version, model.production_id)
    inside = select(Record.row).where(
        Record.dataset_id == data.id, Record.row == 2, lineage.contained(session, live)
    )
    assert bool(session.scalars(inside).all()) == (Kind.HELD in kinds)


def test_full_proof_looks_at_every_version_and_every_completed_request(
    session: Session, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(findings, "_VALUES", 2)
    model, _ = _live(session, data)
    asked = []
    for row in range(5):
        version = session.get_one(Version, model.production_id)
        asked.append(_forgotten(session, data, (model, version), row=row).id)
    _look(session)
    published = {
        one.id for one in session.scalars(select(Version).filter_by(status=VersionStatus.PUBLISHED))
    }
    tomorrow = NOW + timedelta(days=1)
    seen_versions, seen_requests = set(), []
    while (step := reconciler.prove_more(session, now=tomorrow)) is not None:
        seen_versions.add(step.full_version)
        seen_requests.append(step.full_request)
        reconciler.proven(session, step, now=tomorrow)
    assert seen_versions == published | {None}
    assert [one for one in seen_requests if one] == [asked[1], asked[3], asked[4]]
    assert not reconciler.is_due(session, now=tomorrow + timedelta(hours=23))
    assert reconciler.is_due(session, now=tomorrow + timedelta(days=1))


def _full_proof(session: Session, *, now: datetime) -> list[Finding]:
    found: set[Finding] = set()
    while reconciler.is_due(session, now=now):
        step = reconciler.prove_more(session, now=now)
        assert step is not None
        found |= set(step.broken)
        reconciler.proven(session, step, now=now)
    return sorted(found)


def _statements(session: Session) -> int:
    seen: list[str] = []
    stop = _counted(session, seen)
    assert reconciler.broken_by(session, reconciler.changes(session)) == []
    stop()
    return len(seen)


def _counted(session: Session, seen: list[str]):
    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if not statement.startswith("BEGIN"):  # only SQLite is sent it as a statement
            seen.append(statement)

    event.listen(session.bind, "before_cursor_execute", note)
    return lambda: event.remove(session.bind, "before_cursor_execute", note)
