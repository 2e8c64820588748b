"""A request about one subject in every dataset: one request, one end."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, func, select
from sqlalchemy.orm import Session

from service.errors import ServiceError
from service.ledger.audit import canonical, chain
from service.ledger.audit.signing import Signer
from service.ledger.batches import claims, execution, leases, next_batch
from service.ledger.database.states import DatasetStatus, ErasureStatus, RequestStatus
from service.ledger.database.tables import (
    AuditEvent,
    Batch,
    Dataset,
    DeletionRequest,
    Erasure,
    Model,
    Record,
    RequestDataset,
    RequestRecord,
    Suppression,
    Version,
)
from service.ledger.obligations import completion, erasures, shares, without_models
from service.ledger.registry import capabilities, forgotten
from service.ledger.registry.policy import Policy
from service.ledger.reports import report
from service.ledger.requests import intake, lifecycle, lookup, page
from service.ledger.requests.page import Receipt
from service.ledger.requests.parts import DatasetNotReady
from service.ledger.restore import differences, replay, tombstones
from service.ledger.selection import exclusions, naming
from service.ledger.selection.matching import Ask
from service.messages.catalogue import Announcement
from tests import factories
from tests.factories import DIGESTER, NOW

SIGNER = Signer.from_seed(bytes(range(32)))
LATER = NOW + timedelta(minutes=5)


def _dataset(session: Session, name: str, *held: int, **columns: Any) -> Dataset:
    """Six rows, of which ``held`` are Ann's."""
    subjects = ["ann" if row in held else f"other-{row}" for row in range(6)]
    return factories.dataset(session, name=name, rows=6, subjects=subjects, **columns)


def _model(session: Session, data: Dataset, **columns: Any) -> Model:
    model = factories.model(session, data, **columns)
    factories.version(session, model)
    return model


def _record(session: Session, *subjects: str) -> list[DeletionRequest]:
    made = []
    for outcome in _outcomes(session, *subjects):
        assert isinstance(outcome, Receipt), outcome
        made.append(lookup.get(session, outcome.answer["id"]))
    return made


def _outcomes(session: Session, *subjects: str) -> list[Receipt | ServiceError]:
    asks = [Ask(None, "subject", subject_id=one) for one in subjects]
    submissions = [page.Submission(ask, "key_test") for ask in asks]
    return intake.record_many(session, submissions, digester=DIGESTER, now=NOW)


def _rows(session: Session, request: DeletionRequest) -> set[tuple[str, int]]:
    found = session.execute(
        select(Dataset.name, RequestRecord.row)
        .join(Dataset, Dataset.id == RequestRecord.dataset_id)
        .where(RequestRecord.request_id == request.listed_by)
    )
    return {(name, row) for name, row in found}


def _erase(session: Session, data: Dataset, *rows: int) -> None:
    for row in rows:
        record = session.get_one(Record, (data.id, row))
        record.excluded_revision, record.erased_at = 1, NOW
    session.flush()


def _batch(session: Session, model: Model) -> Batch:
    key = leases.of_model(model.id)
    held = leases.acquire(session, key, owner="w1", seconds=30.0, now=LATER)
    assert held is not None
    batch = claims.claim(session, model, held=held, now=LATER)
    assert batch is not None
    return batch


def test_one_request_reaches_the_models_of_every_dataset_that_holds_the_subject(
    session: Session,
) -> None:
    one, other = _dataset(session, "one", 0, 2), _dataset(session, "other", 5)
    _dataset(session, "strangers")
    factories.dataset(session, name="nobody-knows", rows=6)
    _dataset(session, "half", 1, status=DatasetStatus.INGESTING)
    models = [_model(session, one), _model(session, other), _model(session, other)]
    [request] = _record(session, "ann")
    assert (request.dataset_id, request.kind, request.status) == (None, "subject", "accepted")
    assert (request.matched, request.already_forgotten, request.not_found) == (3, 0, 0)
    assert _rows(session, request) == {("one", 0), ("one", 2), ("other", 5)}
    shares = select(Erasure.model_id).where(Erasure.request_id == request.id)
    assert set(session.scalars(shares)) == {model.id for model in models}
    shown = lookup.detail(session, request)
    assert shown["dataset"] is None
    assert shown["datasets"] == [
        {"dataset": "one", "matched": 2, "already_forgotten": 0},
        {"dataset": "other", "matched": 1, "already_forgotten": 0},
    ]
    chain.write(session)
    line = session.scalars(
        select(AuditEvent).where(AuditEvent.subject == f"deletion_request:{request.id}")
    ).one()
    assert (line.data["dataset"], line.data["datasets"]) == (None, ["one", "other"])


def test_it_is_found_among_the_requests_of_each_of_its_datasets(session: Session) -> None:
    for name, held in (("one", [0]), ("other", [1]), ("strangers", [])):
        _dataset(session, name, *held)
    [request] = _record(session, "ann")

    def listed(name: str | None) -> list[str]:
        chosen = lookup.Filter(dataset=name)
        return [row["id"] for row in lookup.listing(session, chosen, after=None, limit=9)]

    assert listed(None) == listed("one") == listed("other") == [request.id]
    assert listed("strangers") == []


def test_a_subject_nobody_holds_matches_nothing(session: Session) -> None:
    _dataset(session, "one", 0)
    [request] = _record(session, "eve")
    assert (request.status, request.matched) == (RequestStatus.NO_MATCH, 0)
    assert lookup.detail(session, request)["datasets"] == []


def test_where_no_dataset_has_subject_ids_nobody_can_know(session: Session) -> None:
    factories.dataset(session)
    [refusal] = _outcomes(session, "planted")
    assert isinstance(refusal, ServiceError)
    assert (refusal.status, refusal.code) == (409, "no-subject-ids")
    assert "planted" not in refusal.detail


def test_what_was_forgotten_before_is_counted_by_dataset(session: Session) -> None:
    one, other = _dataset(session, "one", 0, 2), _dataset(session, "other", 5)
    _erase(session, one, 0, 2)
    [some] = _record(session, "ann")
    assert (some.status, some.matched, some.already_forgotten) == (RequestStatus.ACCEPTED, 1, 2)
    _erase(session, other, 5)
    [everything] = _record(session, "ann")
    assert (everything.status, everything.already_forgotten) == (RequestStatus.COMPLETED, 3)


def test_the_limits_of_one_dataset_hold_the_whole_request_back(session: Session) -> None:
    one, other = _dataset(session, "one", 0), _dataset(session, "other", 1, 2, 3)
    models = [
        _model(session, one),
        _model(session, other, policy={"approval": {"max_records_per_request": 2}}),
    ]
    [request] = _record(session, "ann")
    assert request.status == RequestStatus.AWAITING_APPROVAL
    assert session.scalar(select(func.count()).select_from(Erasure)) == 0
    lifecycle.approve(session, request.id, actor="key:key_boss", now=NOW)
    shares = session.scalars(select(Erasure.model_id).order_by(Erasure.model_id)).all()
    assert shares == sorted(model.id for model in models)


def test_each_dataset_counts_its_own_records_against_its_day(session: Session) -> None:
    one, other = _dataset(session, "one", 0), _dataset(session, "other", 1, 2, 3)
    for data in (one, other):
        _model(session, data, policy={"approval": {"max_records_per_day": 3}})
    [request] = _record(session, "ann")
    assert request.status == RequestStatus.ACCEPTED

    def status(data: Dataset, *names: str) -> str:
        ask = Ask(data.name, "records", record_ids=names)
        receipt = intake.record(session, ask, principal="k", digester=DIGESTER, now=NOW)
        return str(receipt.answer["status"])

    assert status(other, "r0") == "awaiting_approval"
    assert status(one, "r1", "r2") == "accepted"
    assert status(one, "r3") == "awaiting_approval"


def test_a_refused_whole_uses_up_nothing_of_any_day(session: Session) -> None:
    one, other = _dataset(session, "one", 0, 1, 2), _dataset(session, "other", 1, 2, 3, 4)
    for data in (one, other):
        _model(session, data, policy={"approval": {"max_records_per_day": 3}})
    asks = [Ask(None, "subject", subject_id="ann"), Ask("one", "records", ("r3", "r4", "r5"))]
    submissions = [page.Submission(ask, "key_test") for ask in asks]
    outcomes = intake.record_many(session, submissions, digester=DIGESTER, now=NOW)
    states = [one.answer["status"] for one in outcomes if isinstance(one, Receipt)]
    assert states == ["awaiting_approval", "accepted"]


def test_a_batch_takes_only_the_rows_of_its_models_dataset(session: Session) -> None:
    one, other = _dataset(session, "one", 0, 2), _dataset(session, "other", 2, 5)
    model = _model(session, one, policy={"max_wait_seconds": 0})
    _model(session, other)
    [request] = _record(session, "ann")
    batch = _batch(session, model)
    assert execution.rows(session, batch) == [0, 2]
    excluded = session.execute(
        select(Record.dataset_id, Record.row).where(Record.excluded_revision.is_not(None))
    )
    assert {(data, row) for data, row in excluded} == {(one.id, 0), (one.id, 2)}
    assert request.status == RequestStatus.PROCESSING


def test_a_dataset_without_models_is_seen_to_beside_one_with_models(session: Session) -> None:
    one, bare = _dataset(session, "one", 0), _dataset(session, "bare", 1, 4)
    model = _model(session, one, policy={"max_wait_seconds": 0})
    [request] = _record(session, "ann")
    assert sorted(session.scalars(without_models.datasets(NOW))) == [bare.id]
    assert without_models.exclude(session, bare.id, now=NOW, actor="worker:w") == [request.id]
    assert sorted(session.scalars(without_models.datasets(NOW))) == []
    batch = _batch(session, model)
    for share in session.scalars(select(Erasure).where(Erasure.batch_id == batch.id)):
        erasures.complete(share, version_id=batch.base_version_id, now=NOW)
    session.flush()
    _erase(session, one, 0)
    assert completion.settle(session, now=NOW, actor="worker:w1") == []
    _erase(session, bare, 1, 4)
    assert completion.settle(session, now=NOW, actor="worker:w1") == [request.id]


def test_a_dataset_without_models_waits_for_the_undo_window_of_the_others(
    session: Session,
) -> None:
    one, bare = _dataset(session, "one", 0), _dataset(session, "bare", 1)
    _model(session, one, policy={"hold_seconds": 7200.0})
    undone, kept = _record(session, "ann", "ann")
    before, after = (NOW + timedelta(seconds=seconds) for seconds in (7199, 7200))
    assert sorted(session.scalars(without_models.datasets(before))) == []
    assert without_models.exclude(session, bare.id, now=before, actor="worker:w") == []
    assert lifecycle.cancel(session, undone.id, actor="key:k").status == RequestStatus.CANCELLED
    assert sorted(session.scalars(without_models.datasets(after))) == [bare.id]
    begun = without_models.exclude(session, bare.id, now=after, actor="worker:w")
    assert begun == [kept.id]


def test_without_any_model_its_datasets_are_all_seen_to(session: Session) -> None:
    one, other = _dataset(session, "one", 0), _dataset(session, "other", 1)
    session.get_one(Record, (one.id, 0)).excluded_revision = 1  # another request is under way
    [request] = _record(session, "ann")
    assert sorted(session.scalars(without_models.datasets(NOW))) == [one.id, other.id]
    for data in (one, other):
        assert without_models.exclude(session, data.id, now=NOW, actor="worker:w") == [request.id]
    assert sorted(session.scalars(without_models.datasets(NOW))) == []


def test_a_model_that_goes_live_later_joins_it(session: Session) -> None:
    one, other = _dataset(session, "one", 0), _dataset(session, "other", 1)
    _model(session, one)
    [request] = _record(session, "ann")
    late = _model(session, other)
    stranger = _model(session, _dataset(session, "strangers"))
    assert shares.join(session, late, data_revision=0, now=NOW) == 1
    assert shares.join(session, stranger, data_revision=0, now=NOW) == 0
    joined = select(Erasure).where(Erasure.model_id == late.id)
    assert session.scalars(joined).one().request_id == request.id


def test_a_policy_may_not_change_to_what_cannot_do_it(session: Session) -> None:
    announced = [
        Announcement("method", name, "", {"properties": {}}, "1", {"forgets": forgets})
        for name, forgets in (("iau", ["records"]), ("whole", ["class"]))
    ]
    capabilities.announce(session, announced, now=NOW)
    policy = Policy(approval={"max_records_per_request": 0}).model_dump(mode="json")
    model = _model(session, _dataset(session, "one", 0), policy=policy)
    [request] = _record(session, "ann")
    assert request.status == RequestStatus.AWAITING_APPROVAL
    with pytest.raises(ServiceError, match="records"):
        next_batch.change_policy(session, model, {"method": "whole"}, actor="key:k", now=NOW)


def test_it_is_cancelled_as_a_whole(session: Session) -> None:
    for name in ("one", "other"):
        _model(session, _dataset(session, name, 1))
    [request] = _record(session, "ann")
    lifecycle.cancel(session, request.id, actor="key:key_test")
    assert request.status == RequestStatus.CANCELLED
    assert set(session.scalars(select(Erasure.status))) == {ErasureStatus.CANCELLED}


def test_a_report_tells_only_of_its_own_models_dataset(session: Session) -> None:
    one, other = _dataset(session, "one", 0, 2), _dataset(session, "other", 2, 5)
    model = _model(session, one)
    _erase(session, other, 5)
    [request] = _record(session, "ann")
    base = session.get_one(Version, model.production_id)
    version = factories.unlearned(session, model, base, [])
    batch = session.get_one(Batch, version.batch_id)
    share = session.scalars(select(Erasure).where(Erasure.model_id == model.id)).one()
    share.batch_id, share.status = batch.id, ErasureStatus.COMPLETED
    session.flush()
    made = report.report(session, version, digester=DIGESTER, signer=SIGNER, now=NOW)
    [asked] = made["asked"]["requests"]
    assert asked["id"] == request.id
    assert asked["records"] == sorted(DIGESTER.record("one", name) for name in ("r0", "r2"))
    assert (asked["matched"], asked["already_forgotten"]) == (2, 0)
    assert made["asked"]["counts"] == {"requests": 1, "records": 2}


@pytest.mark.parametrize("status", [RequestStatus.ACCEPTED, RequestStatus.PROCESSING])
def test_a_restored_backup_asks_for_it_again_in_every_dataset(
    session: Session, status: RequestStatus
) -> None:
    one, other = _dataset(session, "one", 0, 2), _dataset(session, "other", 5)
    models = [_model(session, one), _model(session, other)]
    [request] = _record(session, "ann")
    request.status = status
    session.flush()
    document = tombstones.export(session, digester=DIGESTER, signer=SIGNER, now=NOW)
    keys = {SIGNER.key_id: SIGNER.public_key}
    listed = tombstones.read(canonical.encode(document), keys=keys)
    wanted, lost = _rows(session, request), request.id
    for table in (Erasure, RequestRecord, RequestDataset, Suppression):
        session.query(table).filter_by(request_id=lost).delete()
    session.delete(request)
    session.flush()
    found = differences.compare(session, listed, digester=DIGESTER, overwritten={})
    assert [item.id for item in found.lost] == [lost]
    assert found.in_training == {"one": [0, 2], "other": [5]}
    replay.replay(session, listed, found, digester=DIGESTER, actor="cli", now=NOW)
    again = lookup.get(session, lost)
    assert (again.status, again.matched, again.dataset_id) == (status, 3, None)
    assert _rows(session, again) == wanted
    shares = select(Erasure.model_id).where(Erasure.request_id == lost)
    assert set(session.scalars(shares)) == {model.id for model in models}
    excluded = select(func.count()).where(Record.excluded_revision.is_not(None))
    assert session.scalar(excluded) == (3 if status == RequestStatus.PROCESSING else 0)
    after = differences.compare(session, listed, digester=DIGESTER, overwritten={})
    assert after.clean


def test_a_group_costs_no_more_statements_than_one(session: Session) -> None:
    for name in ("one", "other"):
        _model(session, _dataset(session, name, 1))
    counts = []
    for group in (1, 40):
        seen: list[str] = []

        def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
            seen.append(statement)  # noqa: B023 - removed before the next one is made

        bound = session.get_bind()
        event.listen(bound, "before_cursor_execute", note)
        made = _outcomes(session, *["ann"] * group)
        event.remove(bound, "before_cursor_execute", note)
        assert all(isinstance(one, Receipt) for one in made)
        counts.append(len(seen))
    listing, sharing = counts  # the second group finds the list of the first
    assert sharing <= listing


def test_versions_know_what_of_it_they_hold(session: Session) -> None:
    one, other = _dataset(session, "one", 2), _dataset(session, "other", 2)
    models = [_model(session, one), _model(session, other)]
    _record(session, "ann")
    exclusions.exclude(session, one.id, naming.Names.of(session.scalars(select(DeletionRequest))))
    for share in session.scalars(select(Erasure)):
        share.status = ErasureStatus.COMPLETED
    session.flush()
    holds = [
        forgotten.requests_in(session, model, session.get_one(Version, model.production_id))
        for model in models
    ]
    assert [len(one) for one in holds] == [1, 0]


def test_subject_that_only_a_dataset_being_read_may_hold_is_asked_for_again(
    session: Session,
) -> None:
    """A no match would let the subject in as soon as that dataset is ready."""
    _dataset(session, "one", 1)
    reading = factories.dataset(session, name="late", rows=6, status=DatasetStatus.INGESTING)
    held, unknown = _outcomes(session, "ann", "nobody")
    assert isinstance(held, Receipt)
    assert isinstance(unknown, DatasetNotReady)
    assert "late" in str(unknown)
    reading.status = DatasetStatus.READY
    session.flush()
    [again] = _record(session, "nobody")
    assert again.status == RequestStatus.NO_MATCH
