"""Tombstone lists: what they hold, how they are matched, and what a replay makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger.audit import canonical, chain
from service.ledger.audit.signing import Signer
from service.ledger.database.states import DatasetStatus, ErasureStatus, RequestStatus
from service.ledger.database.tables import (
    AuditEvent,
    Dataset,
    DeletionRequest,
    Erasure,
    LegalHold,
    Record,
    RequestRecord,
)
from service.ledger.requests import deadlines, legal_holds, lookup
from service.ledger.requests.deadlines import ExtensionReason
from service.ledger.requests.legal_holds import HoldReason
from service.ledger.restore import differences, replay, tombstones
from service.ledger.restore.differences import Found
from service.ledger.restore.tombstones import NotTombstones, Tombstones
from service.ledger.selection.digests import Digester
from tests import factories
from tests.factories import DIGESTER, NOW

SIGNER = Signer.from_seed(bytes(range(32)))
KEYS = {SIGNER.key_id: SIGNER.public_key}

LATER = NOW + timedelta(days=1)


@pytest.fixture
def data(session: Session) -> Dataset:
    return factories.dataset(session, name="letters")


def exported(session: Session) -> Tombstones:
    document = tombstones.export(session, digester=DIGESTER, signer=SIGNER, now=NOW)
    return tombstones.read(canonical.encode(document), keys=KEYS)


def lose(session: Session, *requests: DeletionRequest) -> None:
    """As if the backup were from before these requests."""
    for one in requests:
        for row in session.scalars(select(RequestRecord.row).filter_by(request_id=one.id)).all():
            session.get_one(Record, (one.dataset_id, row)).excluded_revision = None
        session.query(Erasure).filter_by(request_id=one.id).delete()
        session.query(RequestRecord).filter_by(request_id=one.id).delete()
        session.query(LegalHold).filter_by(request_id=one.id).delete()
        session.delete(one)
    session.flush()


def compared(session: Session, listed: Tombstones, digester: Digester = DIGESTER, **flat) -> Found:
    return differences.compare(session, listed, digester=digester, overwritten=flat)


def replayed(session: Session, listed: Tombstones, **flat) -> replay.Replayed:
    return replay.replay(
        session,
        listed,
        compared(session, listed, **flat),
        digester=DIGESTER,
        actor="cli",
        now=LATER,
    )


def completed(session: Session, data: Dataset, *rows: int) -> DeletionRequest:
    made = factories.request(
        session, data, rows=rows, status=RequestStatus.COMPLETED, completed_at=NOW
    )
    for row in rows:
        record = session.get_one(Record, (data.id, row))
        record.excluded_revision, record.erased_at = 1, NOW
    session.flush()
    return made


def test_list_holds_every_request_but_those_that_matched_nothing(
    session: Session, data: Dataset
) -> None:
    states = set(RequestStatus)
    made = {factories.request(session, data, rows=[1], status=one).id: one for one in states}
    listed = {one.id: one.status for one in exported(session).requests}
    assert listed == {key: one for key, one in made.items() if one != RequestStatus.NO_MATCH}


def test_list_names_records_by_their_keyed_digest_only(session: Session, data: Dataset) -> None:
    request = factories.request(session, data, rows=[3, 5], reason="a planted reason")
    document = tombstones.export(session, digester=DIGESTER, signer=SIGNER, now=NOW)
    assert document["requests"][0]["id"] == request.id
    assert document["requests"][0]["records"] == sorted(
        DIGESTER.record("letters", name) for name in ("r3", "r5")
    )
    written = json.dumps(document)
    assert "planted" not in written
    assert '"r3"' not in written  # with its quotes: an id or a signature may hold the two letters


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["requests"].clear(),
        lambda document: document.update(at=canonical.moment(LATER)),
        lambda document: document["signature"].update(key_id="0" * 16),
        lambda document: document.pop("signature"),
        lambda document: document.update(type="audit-report"),
    ],
)
def test_changed_list_is_refused(
    session: Session, data: Dataset, change: Callable[[dict], object]
) -> None:
    factories.request(session, data)
    document = tombstones.export(session, digester=DIGESTER, signer=SIGNER, now=NOW)
    change(document)
    with pytest.raises(NotTombstones):
        tombstones.read(canonical.encode(document), keys=KEYS)


def test_list_signed_in_another_form_is_refused() -> None:
    document = SIGNER.sign({"type": "tombstones", "format": 2, "at": NOW})
    with pytest.raises(NotTombstones, match="cannot be read at"):
        tombstones.read(canonical.encode(document), keys=KEYS)


def test_ledger_that_the_list_was_made_from_is_clean(session: Session, data: Dataset) -> None:
    completed(session, data, 0, 1)
    factories.request(session, data, rows=[2])  # open: about to be forgotten, not back
    session.flush()
    found = compared(session, exported(session), letters=[0, 1])
    assert found.clean
    assert found == Found(
        in_training={"letters": []},
        raw={"letters": []},
        raw_again={"letters": []},
        erased_in_file={"letters": []},
    )


def test_records_are_found_under_the_subject_key_before(session: Session, data: Dataset) -> None:
    request = completed(session, data, 4)
    listed = exported(session)
    lose(session, request)
    new = b"another-subject-key-for-tests-0123456789"
    rotated = Digester((new, *DIGESTER.keys))
    assert compared(session, listed, rotated).in_training == {"letters": [4]}
    assert compared(session, listed, Digester((new,))).in_training == {"letters": []}


def test_lost_request_comes_back_with_its_dates_and_an_erasure_per_model(
    session: Session, data: Dataset
) -> None:
    model = factories.model(session, data)
    factories.version(session, model)
    factories.model(session, data)  # never trained: has nothing to forget
    request = completed(session, data, 4, 5)
    listed = exported(session)
    lose(session, request)
    for row in (4, 5):
        session.get_one(Record, (data.id, row)).erased_at = None
    session.flush()
    done = replayed(session, listed)
    assert (done.requests, done.records, done.retrained) == (1, 2, ())
    session.expire_all()
    again = session.get_one(DeletionRequest, request.id)
    assert (again.status, again.created_at) == (RequestStatus.PROCESSING, NOW)
    assert (again.due_at, again.matched) == (NOW + timedelta(days=31), 2)
    share = session.scalars(select(Erasure).filter_by(request_id=request.id)).one()
    assert (share.model_id, share.status) == (model.id, ErasureStatus.PENDING)
    assert session.get_one(Record, (data.id, 4)).excluded_revision is not None
    lines = session.scalars(select(AuditEvent).order_by(AuditEvent.seq)).all()
    assert [line.action for line in lines][-2:] == ["deletion_request:accepted", "restore:replayed"]
    assert chain.verify(session).sound


def _extended(session: Session, data: Dataset) -> DeletionRequest:
    asked = NOW - timedelta(days=3)
    request = factories.request(
        session,
        data,
        status=RequestStatus.ACCEPTED,
        regulation="ccpa",
        asked_at=asked,
        due_at=asked + timedelta(days=45),
    )
    deadlines.extend(
        session,
        request.id,
        periods=1,
        because=ExtensionReason.COMPLEXITY,
        reason="many systems",
        actor="key:k",
        now=NOW,
    )
    return request


def test_lost_request_comes_back_with_its_regulation_and_extensions(
    session: Session, data: Dataset
) -> None:
    request = _extended(session, data)
    listed = exported(session)
    lose(session, request)
    replayed(session, listed)
    session.expire_all()
    again = session.get_one(DeletionRequest, request.id)
    asked = NOW - timedelta(days=3)
    assert (again.regulation, again.extensions, again.asked_at) == ("ccpa", 1, asked)
    assert again.due_at == asked + timedelta(days=90)
    assert deadlines.periods_left(again) == 0


def test_due_date_that_was_extended_after_the_backup_is_set_again(
    session: Session, data: Dataset
) -> None:
    request = _extended(session, data)
    due_at, listed = request.due_at, exported(session)
    request.due_at, request.extensions = due_at - timedelta(days=45), None  # as in the backup
    session.flush()
    assert [one.id for one in compared(session, listed).redated] == [request.id]
    replayed(session, listed)
    session.expire_all()
    again = session.get_one(DeletionRequest, request.id)
    assert (again.due_at, again.extensions) == (due_at, 1)
    assert compared(session, listed).redated == ()
    assert chain.verify(session).sound


def test_rows_erased_through_another_request_end_a_lost_one_at_once(
    session: Session, data: Dataset
) -> None:
    request = completed(session, data, 4)
    listed = exported(session)
    session.query(RequestRecord).delete()
    session.delete(request)
    session.flush()
    replayed(session, listed, letters=[4])
    session.expire_all()
    again = session.get_one(DeletionRequest, request.id)
    assert (again.status, again.completed_at) == (RequestStatus.COMPLETED, NOW)
    assert (again.matched, again.already_forgotten) == (0, 1)


def test_request_that_waits_for_approval_waits_again(session: Session, data: Dataset) -> None:
    model = factories.model(session, data)
    factories.version(session, model)
    request = factories.request(session, data, status=RequestStatus.AWAITING_APPROVAL)
    listed = exported(session)
    lose(session, request)
    replayed(session, listed)
    session.expire_all()
    again = session.get_one(DeletionRequest, request.id)
    assert again.status == RequestStatus.AWAITING_APPROVAL
    assert session.scalars(select(Erasure)).all() == []
    assert session.get_one(Record, (data.id, 0)).excluded_revision is None


def test_approval_given_after_the_backup_is_given_again(session: Session, data: Dataset) -> None:
    model = factories.model(session, data)
    factories.version(session, model)
    request = factories.request(session, data, status=RequestStatus.PROCESSING)
    listed = exported(session)
    request.status = RequestStatus.AWAITING_APPROVAL
    session.flush()
    replayed(session, listed)
    session.expire_all()
    assert request.status == RequestStatus.PROCESSING
    assert session.scalars(select(Erasure)).one().request_id == request.id


@pytest.mark.parametrize("status", [RequestStatus.CANCELLED, RequestStatus.DENIED])
def test_withdrawn_request_is_withdrawn_again_and_never_recreated(
    session: Session, data: Dataset, status: RequestStatus
) -> None:
    open_again = factories.request(session, data, rows=[1], status=status)
    unknown = factories.request(session, data, rows=[2], status=status)
    listed = exported(session)
    lose(session, unknown)
    open_again.status = RequestStatus.AWAITING_APPROVAL
    session.flush()
    assert not compared(session, listed).clean
    replayed(session, listed)
    session.expire_all()
    assert open_again.status == status
    assert session.get(DeletionRequest, unknown.id) is None
    assert compared(session, listed).clean


def test_legal_holds_are_in_force_again_or_released_again(session: Session, data: Dataset) -> None:
    kept, lost, let_go = (factories.request(session, data, rows=[row]) for row in range(3))
    who = {"actor": "key:k", "now": NOW}
    for one in (kept, lost):
        legal_holds.place(
            session, one.id, code=HoldReason.AUTHORITY_ORDER, reason="docket 4711", **who
        )
    session.commit()
    listed = exported(session)
    assert "docket" not in listed.model_dump_json()
    legal_holds.release(session, kept.id, reason="as before the hold", **who)
    lose(session, lost)
    legal_holds.place(
        session, let_go.id, code=HoldReason.LEGAL_CLAIMS, reason="as before the release", **who
    )
    session.commit()
    found = compared(session, listed)
    assert ({one.id for one in found.unheld}, [one.id for one in found.released]) == (
        {kept.id, lost.id},
        [let_go.id],
    )
    assert not found.clean
    replayed(session, listed)
    session.commit()
    shown = {
        one: lookup.detail(session, lookup.get(session, one))
        for one in (kept.id, lost.id, let_go.id)
    }
    assert [one["legal_hold"] for one in shown.values()] == [True, True, False]
    assert shown[lost.id]["legal_holds"][-1]["reason_code"] == "authority_order"
    found = compared(session, listed)
    assert (found.unheld, found.released) == ((), ())


@pytest.mark.parametrize("end", [RequestStatus.DENIED, RequestStatus.ACCEPTED])
def test_a_request_decided_on_and_held_since_the_backup_is_both_again(
    session: Session, data: Dataset, end: RequestStatus
) -> None:
    request = factories.request(session, data, status=end)
    request.status = RequestStatus.AWAITING_APPROVAL
    legal_holds.place(
        session, request.id, code=HoldReason.LEGAL_CLAIMS, reason="x", actor="key:k", now=NOW
    )
    request.status = end
    session.commit()
    listed = exported(session)
    legal_holds.release(session, request.id, reason="not yet placed", actor="key:k", now=NOW)
    request.status = RequestStatus.AWAITING_APPROVAL
    session.commit()
    replayed(session, listed)
    session.commit()
    assert (request.status, request.legal_hold_id is not None) == (end, True)
    assert compared(session, listed).clean


def test_list_of_an_earlier_release_says_nothing_of_legal_holds(
    session: Session, data: Dataset
) -> None:
    request = factories.request(session, data)
    session.commit()
    document = exported(session).model_dump()
    del document["requests"][0]["legal_hold"]
    legal_holds.place(
        session, request.id, code=HoldReason.LEGAL_CLAIMS, reason="x", actor="key:k", now=NOW
    )
    session.commit()
    assert compared(session, Tombstones.model_validate(document)).clean


def test_dataset_that_is_gone_is_named_and_passed_over(session: Session, data: Dataset) -> None:
    factories.request(session, data, status=RequestStatus.PROCESSING)
    listed = exported(session)
    other = listed.requests[0].model_copy(update={"id": "dr_x", "dataset": "gone"})
    listed = listed.model_copy(update={"requests": [other]})
    assert compared(session, listed).unknown_datasets == ("gone",)
    assert replayed(session, listed).requests == 0


def test_live_version_that_contains_hollow_rows_is_retrained(
    session: Session, data: Dataset
) -> None:
    model, other = factories.model(session, data), factories.model(session, data)
    for one in (model, other):
        factories.version(session, one)
    clean = factories.version(session, other, data_revision=5)
    running = factories.batch(session, model, session.get_one(type(clean), model.production_id))
    session.get_one(Record, (data.id, 7)).excluded_revision = 3
    session.flush()
    done = replayed(session, exported(session), letters=[7])
    session.expire_all()
    assert done.retrained == (model.name,)
    assert model.run_now_method == running.method == {"method": "retrain", "options": {}}
    assert other.run_now_method is None


def test_chain_that_grew_after_the_list_is_whole_and_another_is_noticed(
    session: Session, data: Dataset
) -> None:
    def say(what: str) -> None:
        chain.append(session, actor="t", action=chain.Action.MODEL_CREATED, subject=what, data={})
        chain.write(session)

    say("one")
    listed = exported(session)
    say("two")
    assert compared(session, listed).chain == "whole"
    ahead = listed.model_copy(update={"head": listed.head.model_copy(update={"seq": 9})})
    assert compared(session, ahead).chain == "shorter"
    other = listed.model_copy(update={"head": listed.head.model_copy(update={"hash": "0" * 64})})
    assert compared(session, other).chain == "another"


def test_records_of_a_dataset_that_is_still_being_ingested_are_matched_by_no_list(
    session: Session, data: Dataset
) -> None:
    request = factories.request(session, data, rows=[1, 2])
    listed = exported(session)
    assert _matched(session, listed, request) == {"letters": {1, 2}}
    # As in a backup from before the dataset was ready: what is there of its records may go again.
    data.status, data.ready_at = DatasetStatus.INGESTING, None
    session.flush()
    assert _matched(session, listed, request) == {"letters": set()}


def _matched(session: Session, listed: Tombstones, request: DeletionRequest) -> dict[str, set[int]]:
    return differences.match(session, listed.requests, digester=DIGESTER)[request.id]
