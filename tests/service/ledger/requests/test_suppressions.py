"""Suppressions in the ledger: entered, lifted, listed and restored."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, func, select, text
from sqlalchemy.orm import Session

from service.errors import NotFound
from service.ledger.audit import canonical, chain
from service.ledger.audit.signing import Signer
from service.ledger.database import db
from service.ledger.database.identifiers import Case
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import (
    AuditEvent,
    Dataset,
    DeletionRequest,
    Model,
    Record,
    Suppression,
)
from service.ledger.requests import intake, lifecycle, lookup, readmissions, suppressions
from service.ledger.requests.suppressions import Kind
from service.ledger.restore import differences, replay, tombstones
from service.ledger.selection.matching import Ask
from tests import factories
from tests.factories import DIGESTER, NOW

SIGNER = Signer.from_seed(bytes(range(32)))
WHO: dict[str, Any] = {"digester": DIGESTER, "actor": "key:key_boss", "now": NOW}


@pytest.fixture
def data(session: Session) -> Dataset:
    return factories.dataset(session, name="faces", rows=4, subjects=["ann", "ann", "ben", "eve"])


def _ask(session: Session, subject: str, dataset: str | None = "faces") -> DeletionRequest:
    ask = Ask(dataset, "subject", subject_id=subject)
    receipt = intake.record(session, ask, principal="k", digester=DIGESTER, now=NOW)
    return lookup.get(session, receipt.answer["id"])


def _suppressed(session: Session, kind: Kind = Kind.SUBJECT) -> frozenset[str]:
    return suppressions.in_force(session).digests[kind]


def _limit(session: Session, data: Dataset) -> Model:
    model = factories.model(session, data, policy={"approval": {"max_records_per_request": 0}})
    factories.version(session, model)
    return model


@pytest.mark.parametrize("dataset", ["faces", None])
def test_a_subject_is_suppressed_from_the_moment_it_is_asked_for(
    session: Session, data: Dataset, dataset: str | None
) -> None:
    _ask(session, "ann", dataset)
    assert _suppressed(session) == {DIGESTER.subject("ann")}
    assert _suppressed(session, Kind.FOLDED) == {DIGESTER.subject("ann")}
    assert _suppressed(session, Kind.ROW) == set()


def test_a_subject_is_suppressed_in_the_form_in_which_ingests_keep_it(
    session: Session, data: Dataset
) -> None:
    session.get_one(Record, (data.id, 0)).subject_digest = DIGESTER.subject("Jos\u00e9")
    _ask(session, " Jose\u0301")
    assert _suppressed(session) == {DIGESTER.subject("Jos\u00e9")}
    assert _suppressed(session, Kind.FOLDED) == {DIGESTER.subject("jos\u00e9")}


@pytest.mark.parametrize("asked", ["ann\u2011lee", "ann-lee", "ann\u2212lee\u200b"])
def test_a_subject_is_suppressed_whichever_dash_it_is_written_with(
    session: Session, asked: str
) -> None:
    factories.dataset(session, name="faces", rows=1, subjects=["ann-lee"])
    _ask(session, asked)
    assert _suppressed(session) == {DIGESTER.subject("ann-lee")}


def test_a_suppression_of_before_dashes_were_folded_is_lifted_too(
    session: Session, data: Dataset
) -> None:
    for kind, form in ((Kind.SUBJECT, "Ann\u2011Lee"), (Kind.FOLDED, "ann\u2011lee")):
        session.add(Suppression(kind=kind, digest=DIGESTER.subject(form), created_at=NOW))
    session.flush()
    assert readmissions.readmit_subject(session, "Ann\u2011Lee", **WHO) == 2
    assert not suppressions.in_force(session)


def test_whoever_was_not_found_is_not_suppressed(session: Session, data: Dataset) -> None:
    assert _ask(session, "nobody").status == RequestStatus.NO_MATCH
    assert not suppressions.in_force(session)


def test_requests_by_record_or_class_suppress_nobody(session: Session, data: Dataset) -> None:
    for ask in (Ask("faces", "records", ("r0",)), Ask("faces", "class", label=1)):
        intake.record(session, ask, principal="k", digester=DIGESTER, now=NOW)
    assert not suppressions.in_force(session)


def test_a_withdrawn_request_suppresses_no_longer_and_another_one_still_does(
    session: Session, data: Dataset
) -> None:
    first, second = _ask(session, "ann"), _ask(session, "ann", None)
    lifecycle.cancel(session, first.id, actor="key:k")
    assert _suppressed(session) == {DIGESTER.subject("ann")}
    lifecycle.cancel(session, second.id, actor="key:k")
    assert not suppressions.in_force(session)


@pytest.mark.parametrize("approve", [True, False])
def test_a_request_that_waits_suppresses_until_it_is_denied(
    session: Session, data: Dataset, approve: bool
) -> None:
    _limit(session, data)
    request = _ask(session, "ann")
    assert request.status == RequestStatus.AWAITING_APPROVAL
    assert _suppressed(session) == {DIGESTER.subject("ann")}
    if approve:
        lifecycle.approve(session, request.id, actor="key:k", now=NOW)
    else:
        lifecycle.deny(session, request.id, because=None, actor="key:k")
    assert bool(suppressions.in_force(session)) is approve


def test_a_readmitted_subject_may_come_back_until_it_is_forgotten_again(
    session: Session, data: Dataset
) -> None:
    _ask(session, "ann")
    _ask(session, "ben")
    suppressions.keep_rows(session, data, {0: "0" * 64, 2: "2" * 64}, now=NOW)
    assert readmissions.readmit_subject(session, " ann ", **WHO) == 3  # both forms, and row 0
    assert _suppressed(session) == {DIGESTER.subject("ben")}
    assert _suppressed(session, Kind.ROW) == {"2" * 64}
    assert readmissions.readmit_subject(session, "ann", **WHO) == 0
    _ask(session, "ann")
    assert _suppressed(session) == {DIGESTER.subject("ann"), DIGESTER.subject("ben")}


def test_a_subject_is_readmitted_after_the_key_was_changed(session: Session, data: Dataset) -> None:
    _ask(session, "ann")
    rotated = type(DIGESTER)((b"a-newer-key" * 4, *DIGESTER.keys))
    assert readmissions.readmit_subject(session, "ann", **WHO | {"digester": rotated}) == 2
    assert not suppressions.in_force(session)


def test_records_are_readmitted_in_their_dataset(session: Session, data: Dataset) -> None:
    other = factories.dataset(session, name="other", rows=4)
    for one in (data, other):
        suppressions.keep_rows(session, one, {0: one.name, 2: "2" * 64}, now=NOW)
    assert readmissions.readmit_records(session, "faces", ["r0", " r0", "x"], **WHO) == 1
    assert _suppressed(session, Kind.ROW) == {"2" * 64, "other"}
    assert readmissions.readmit_records(session, "faces", ["r0"], **WHO) == 0
    with pytest.raises(NotFound):
        readmissions.readmit_records(session, "nowhere", ["r0"], **WHO)


def test_a_readmission_is_in_the_audit_chain_without_the_identity(
    session: Session, data: Dataset
) -> None:
    _ask(session, "ann")
    readmissions.readmit_subject(session, "ann", **WHO)
    readmissions.readmit_records(session, "faces", ["r0", "r1"], **WHO)
    chain.write(session)
    lines = session.scalars(
        select(AuditEvent).where(AuditEvent.action == "suppression:lifted").order_by(AuditEvent.seq)
    ).all()
    assert [line.subject for line in lines] == [
        f"suppression:{DIGESTER.subject('ann')}",
        "dataset:faces",
    ]
    named = sorted(DIGESTER.record("faces", one) for one in ("r0", "r1"))
    assert [line.data for line in lines] == [
        {"lifted": 2},
        {"lifted": 0, "records": 2, "digest": canonical.digest(named)},
    ]
    assert {line.actor for line in lines} == {"key:key_boss"}


def test_rows_that_open_requests_name_are_about_to_go(session: Session, data: Dataset) -> None:
    other = factories.dataset(session, name="other", rows=4)
    factories.request(session, data, rows=[0, 2])
    factories.request(session, data, rows=[1], status=RequestStatus.CANCELLED)
    factories.request(session, other, rows=[3], status=RequestStatus.PROCESSING)
    session.get_one(Record, (data.id, 2)).erased_at = NOW
    assert suppressions.about_to_go(session) == {data: [0], other: [3]}
    suppressions.keep_rows(session, other, {3: "3" * 64}, now=NOW)
    assert suppressions.unkept(session, other, [2, 3]) == {2: "r2"}


def test_what_open_requests_name_is_found_however_many_are_open(sqlite_database: Engine) -> None:
    with db.session_factory(sqlite_database)() as session:
        data = factories.dataset(session, name="faces", rows=100)
        for row in range(100):
            factories.request(session, data, rows=[row])
        driver: Any = session.connection().connection.driver_connection
        driver.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 99)  # usually thousands
        assert suppressions.about_to_go(session) == {data: list(range(100))}
        assert differences._Rows.load(session, "faces").asked == set(range(100))


# Backups.


def _exported(session: Session) -> tombstones.Tombstones:
    document = tombstones.export(session, digester=DIGESTER, signer=SIGNER, now=NOW)
    keys = {SIGNER.key_id: SIGNER.public_key}
    return tombstones.read(canonical.encode(document), keys=keys)


def _compared(session: Session, listed: tombstones.Tombstones) -> differences.Found:
    return differences.compare(session, listed, digester=DIGESTER, overwritten={})


def _replay(session: Session, listed: tombstones.Tombstones) -> None:
    found = _compared(session, listed)
    replay.replay(session, listed, found, digester=DIGESTER, actor="cli", now=NOW)


def test_a_restored_backup_heeds_the_suppressions_of_the_list(
    session: Session, data: Dataset
) -> None:
    _ask(session, "ann")
    gone = _ask(session, "ben", None)
    suppressions.keep_rows(session, data, {2: "2" * 64}, now=NOW)
    suppressions.keep_owners(session, data, first=0, rows=4, digester=DIGESTER)
    readmissions.readmit_subject(session, "ann", **WHO)
    listed = _exported(session)
    assert _compared(session, listed).clean
    # The backup is from before everything but ann's request, and has it in force.
    session.query(Suppression).filter(Suppression.request_id == gone.id).delete()
    session.query(Suppression).filter(Suppression.kind == Kind.ROW.value).delete()
    session.query(Suppression).update({"lifted_at": None})
    found = _compared(session, listed)
    assert (len(found.suppressions), found.clean) == (5, False)
    _replay(session, listed)
    assert _suppressed(session) == _suppressed(session, Kind.FOLDED) == {DIGESTER.subject("ben")}
    assert _suppressed(session, Kind.ROW) == {"2" * 64}
    assert _compared(session, listed).clean
    [row] = session.query(Suppression).filter(Suppression.kind == Kind.ROW.value)
    assert row.subject_digest == DIGESTER.subject("ben")
    assert row.record_digest == DIGESTER.record("faces", "r2")
    assert readmissions.readmit_records(session, "faces", ["r2"], **WHO) == 1
    assert _compared(session, listed).clean  # what was lifted since the list stays lifted


def test_suppressions_of_requests_that_are_unknown_here_are_kept(session: Session) -> None:
    data = factories.dataset(session, name="gone", rows=1, subjects=["ann"])
    _ask(session, "ann", "gone")
    listed = _exported(session)
    for table in (Suppression, factories.RequestRecord, DeletionRequest, Record):
        session.query(table).delete()
    session.delete(data)
    session.flush()
    _replay(session, listed)
    assert _suppressed(session) == {DIGESTER.subject("ann")}
    assert _compared(session, listed).suppressions == ()
    _replay(session, listed)
    assert session.scalar(select(func.count()).select_from(Suppression)) == 2


def test_a_list_without_suppressions_is_still_read(session: Session, data: Dataset) -> None:
    document = tombstones.export(session, digester=DIGESTER, signer=SIGNER, now=NOW)
    del document["suppressions"], document["signature"]
    content = canonical.encode(SIGNER.sign(document))
    listed = tombstones.read(content, keys={SIGNER.key_id: SIGNER.public_key})
    assert listed.suppressions == []


def test_a_dataset_that_ignores_case_is_asked_in_any_case(session: Session) -> None:
    factories.dataset(session, name="mail", rows=1, subjects=["eve@x.org"], id_case=Case.IGNORED)
    _ask(session, "Eve@X.org", "mail")
    assert _suppressed(session, Kind.FOLDED) == {DIGESTER.subject("eve@x.org")}


# A dataset becomes ready while somebody is forgotten everywhere: one of the two sees the other.


@contextmanager
def _blocked(database: Engine, work: Callable[[], object]) -> Iterator[None]:
    """Run ``work`` beside the block, which begins once PostgreSQL has the work wait for a lock."""
    thread = threading.Thread(target=work)
    thread.start()
    waiting = text(
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'suppressions'::regclass"
    )
    deadline = time.monotonic() + 60
    with database.connect() as connection:
        while not connection.execute(waiting).scalar():
            connection.rollback()
            assert time.monotonic() < deadline
    yield
    thread.join(timeout=60)
    assert not thread.is_alive()


def test_a_request_about_everything_waits_for_a_dataset_that_becomes_ready(
    postgres_database: Engine,
) -> None:
    sessions = db.session_factory(postgres_database)
    with sessions() as session:
        factories.dataset(session, name="faces", rows=1, subjects=["ann"])
        session.commit()
    found: list[DeletionRequest] = []

    def ask() -> None:
        with sessions() as session:
            found.append(_ask(session, "ann", None))
            session.commit()

    with sessions() as session:
        suppressions.hold(session)
        assert not suppressions.in_force(session)
        factories.dataset(session, name="voices", rows=2, subjects=["ann", "ann"])
        with _blocked(postgres_database, ask):
            session.commit()
    assert found[0].matched == 3


def test_a_dataset_that_becomes_ready_waits_for_a_request_about_everything(
    postgres_database: Engine,
) -> None:
    sessions = db.session_factory(postgres_database)
    with sessions() as session:
        factories.dataset(session, name="faces", rows=1, subjects=["ann"])
        session.commit()
    found: list[frozenset[str]] = []

    def complete() -> None:
        with sessions() as session:
            suppressions.hold(session)
            found.append(_suppressed(session))

    with sessions() as session:
        _ask(session, "ann", None)
        with _blocked(postgres_database, complete):
            session.commit()
    assert found == [{DIGESTER.subject("ann")}]
