"""Requests that matched the same records share the list of them, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.ledger.audit import chain
from service.ledger.batches import claims, leases
from service.ledger.database.states import ErasureStatus, RequestStatus
from service.ledger.database.tables import (
    AuditEvent,
    Dataset,
    DeletionRequest,
    Erasure,
    Model,
    Record,
    RequestRecord,
    Version,
)
from service.ledger.obligations import completion, erasures, raw_rows, without_models
from service.ledger.registry import forgotten
from service.ledger.requests import idempotency, intake, lifecycle, lookup, page, suppressions
from service.ledger.restore import tombstones
from service.ledger.selection import naming
from service.ledger.selection.matching import Ask
from tests import factories
from tests.factories import DIGESTER, NOW
from tests.service import announcements

PERSON = Ask("faces", "subject", subject_id="ann")
HERS = (0, 1, 2, 3)
NOW_AND_ALL = {"max_wait_seconds": 0, "method": "retrain", "max_records": 1000}


@pytest.fixture
def data(session: Session) -> Dataset:
    announcements.announce(session)
    return factories.dataset(session, name="faces", subjects=["ann"] * 4 + ["bob"] * 8)


@pytest.fixture
def model(session: Session, data: Dataset) -> Model:
    made = factories.model(session, data, policy=NOW_AND_ALL)
    factories.version(session, made)
    return made


def ask(session: Session, *asks: Ask) -> list[DeletionRequest]:
    """Record the requests, in as many transactions as they take."""
    left = [page.Submission(one, "key_test") for one in asks]
    ids = [one.id for one in left]
    while left:
        taken = intake.record_many(session, left, digester=DIGESTER, now=NOW)
        assert all(isinstance(one, page.Receipt) for one in taken)
        left = left[len(taken) :]
        session.commit()
    return [session.get_one(DeletionRequest, one) for one in ids]


def listed(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(RequestRecord)) or 0


def claim(session: Session, model: Model) -> Sequence[str]:
    """Requests of the batch that is claimed now."""
    lease = leases.acquire(session, leases.of_model(model.id), owner="w", seconds=30, now=NOW)
    assert lease is not None
    batch = claims.claim(session, model, held=lease, now=NOW)
    assert batch is not None
    wanted = select(Erasure.request_id).where(Erasure.batch_id == batch.id)
    return session.scalars(wanted.order_by(Erasure.id)).all()


def excluded(session: Session, data: Dataset) -> set[int]:
    wanted = select(Record.row).where(
        Record.dataset_id == data.id, Record.excluded_revision.is_not(None)
    )
    return set(session.scalars(wanted))


def test_sixty_requests_about_one_person_list_her_records_once(
    session: Session, data: Dataset, model: Model
) -> None:
    made = ask(session, *[PERSON] * 60)
    assert listed(session) == len(HERS)
    assert {one.matched for one in made} == {len(HERS)}
    for one in made:
        assert lookup.rows(session, one.id) == list(HERS)
        assert lookup.detail(session, one)["datasets"] == [
            {"dataset": "faces", "matched": len(HERS), "already_forgotten": 0}
        ]
    assert session.query(Erasure).count() == len(made)


def test_a_list_is_shared_across_transactions_and_kinds_of_request(
    session: Session, data: Dataset, model: Model
) -> None:
    by_id = Ask("faces", "records", tuple(f"r{row}" for row in reversed(HERS)))
    made = ask(session, PERSON)
    made += ask(session, by_id, Ask(None, "subject", subject_id="ann"))
    assert listed(session) == len(HERS)
    assert {one.listed_by for one in made} == {made[0].id}


def test_a_list_of_other_records_is_another_one(
    session: Session, data: Dataset, model: Model
) -> None:
    fewer = Ask("faces", "records", tuple(f"r{row}" for row in HERS[1:]))
    ask(session, PERSON, fewer)
    assert listed(session) == 2 * len(HERS) - 1


def test_same_rows_of_another_dataset_are_other_records(
    session: Session, data: Dataset, model: Model
) -> None:
    factories.dataset(session, name="voices", rows=4, subjects=["ann"] * 4)
    mine, other = ask(session, PERSON, Ask("voices", "subject", subject_id="ann"))
    assert (mine.listed_by, other.listed_by) == (mine.id, other.id)


def test_records_erased_meanwhile_are_not_in_a_later_list(
    session: Session, data: Dataset, model: Model
) -> None:
    ask(session, PERSON)
    session.get_one(Record, (data.id, 0)).erased_at = NOW
    session.commit()
    [later] = ask(session, PERSON)
    assert (later.listed_by, later.already_forgotten) == (later.id, 1)
    assert lookup.rows(session, later.id) == list(HERS[1:])


def test_cancelling_the_first_leaves_the_others_their_records(
    session: Session, data: Dataset, model: Model
) -> None:
    first, second, third = ask(session, *[PERSON] * 3)
    lifecycle.cancel(session, first.id, actor="key:key_test")
    session.commit()
    assert claim(session, model) == [second.id, third.id]
    assert excluded(session, data) == set(HERS)
    assert first.status == RequestStatus.CANCELLED
    assert {second.status, third.status} == {RequestStatus.PROCESSING}


def test_cancelling_all_of_them_forgets_nobody(
    session: Session, data: Dataset, model: Model
) -> None:
    for one in ask(session, *[PERSON] * 2):
        lifecycle.cancel(session, one.id, actor="key:key_test")
    session.commit()
    lease = leases.acquire(session, leases.of_model(model.id), owner="w", seconds=30, now=NOW)
    assert lease is not None
    assert claims.claim(session, model, held=lease, now=NOW) is None
    assert excluded(session, data) == set()


def test_rows_stand_until_the_last_request_that_names_them_is_done(
    session: Session, data: Dataset, model: Model
) -> None:
    first, second = ask(session, *[PERSON] * 2)
    claim(session, model)
    mine, other = session.scalars(select(Erasure).order_by(Erasure.id))
    erasures.complete(mine, version_id=None, now=NOW)
    session.flush()
    assert suppressions.about_to_be_erased(session, data)[0] == []
    assert completion.settle(session, now=NOW, actor="worker:w") == []
    erasures.complete(other, version_id=None, now=NOW)
    session.flush()
    assert suppressions.about_to_be_erased(session, data)[0] == list(HERS)
    assert completion.settle(session, now=NOW, actor="worker:w") == []
    raw_rows.mark_erased(session, data, list(HERS), now=NOW, actor="worker:w")
    done = completion.settle(session, now=NOW, actor="worker:w")
    assert sorted(done) == sorted([first.id, second.id])


def test_everybody_whose_records_a_version_holds_is_named(
    session: Session, data: Dataset, model: Model
) -> None:
    made = ask(session, *[PERSON] * 3)
    claim(session, model)
    live = session.get_one(Version, model.production_id)
    for share in session.scalars(select(Erasure)):
        share.status = ErasureStatus.COMPLETED
    session.flush()
    named = forgotten.requests_in(session, model, live)
    assert named == sorted(one.id for one in made)


def test_identical_requests_fill_a_batch_as_one(session: Session, data: Dataset) -> None:
    policy = NOW_AND_ALL | {"max_records": len(HERS) + 2}
    model = factories.model(session, data, policy=policy)
    factories.version(session, model)
    made = ask(session, *[PERSON] * 3)
    assert claim(session, model) == [one.id for one in made]


def test_requests_without_a_model_are_excluded_by_their_shared_list(
    session: Session, data: Dataset
) -> None:
    made = ask(session, *[PERSON] * 2)
    assert without_models.exclude(session, data.id, now=NOW, actor="worker:w") == sorted(
        one.id for one in made
    )
    assert excluded(session, data) == set(HERS)


def test_a_model_that_comes_later_gets_a_share_of_each(session: Session, data: Dataset) -> None:
    made = ask(session, *[PERSON] * 2)
    late = factories.model(session, data)
    factories.version(session, late)
    found = erasures.shares.join(session, late, data_revision=0, now=NOW)
    assert found == len(made)


def test_repeats_of_a_key_list_nothing(session: Session, data: Dataset, model: Model) -> None:
    sent = [
        page.Submission(PERSON, "key_test", idempotency.Claim("key_test", "k", ("d",)))
        for _ in range(2)
    ]
    outcomes = intake.record_many(session, sent, digester=DIGESTER, now=NOW)
    assert [one.repeated for one in outcomes if isinstance(one, page.Receipt)] == [False, True]
    assert session.query(DeletionRequest).count() == 1
    assert listed(session) == len(HERS)


def test_each_of_them_has_a_line_of_its_own_in_the_chain(
    session: Session, data: Dataset, model: Model
) -> None:
    submissions = [page.Submission(PERSON, f"key_{name}") for name in "abc"]
    intake.record_many(session, submissions, digester=DIGESTER, now=NOW)
    session.commit()
    lines = session.execute(
        select(AuditEvent.actor, AuditEvent.subject).where(
            AuditEvent.action == chain.Action.DELETION_REQUEST_ACCEPTED.value
        )
    )
    assert {(actor, subject) for actor, subject in lines} == {
        (f"key:{one.principal}", f"deletion_request:{one.id}") for one in submissions
    }


def test_a_tombstone_list_has_the_records_of_each(
    session: Session, data: Dataset, model: Model
) -> None:
    made = ask(session, *[PERSON] * 2)
    found = {one["id"]: one["records"] for one in tombstones._requests(session, DIGESTER)}
    hers = sorted(DIGESTER.record("faces", f"r{row}") for row in HERS)
    assert found == {one.id: hers for one in made}


def test_a_transaction_lists_no_more_rows_than_its_limit(
    session: Session, data: Dataset, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "ROWS_AT_ONCE", 5)
    asks = [Ask("faces", "records", (f"r{n}", f"r{n + 1}")) for n in range(6)]
    left = [page.Submission(one, "key_test") for one in asks]
    taken = []
    while left:
        outcomes = intake.record_many(session, left, digester=DIGESTER, now=NOW)
        session.commit()
        taken.append(len(outcomes))
        left = left[len(outcomes) :]
    assert taken == [2, 2, 2]
    assert listed(session) == 2 * len(asks)


def test_shared_lists_and_refusals_do_not_count_against_the_limit(
    session: Session, data: Dataset, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "ROWS_AT_ONCE", len(HERS))
    asks = [*[PERSON] * 5, Ask("nowhere", "records", ("r0",)), Ask("faces", "class", label=1)]
    submissions = [page.Submission(one, "key_test") for one in asks]
    outcomes = intake.record_many(session, submissions, digester=DIGESTER, now=NOW)
    assert len(outcomes) == len(asks)


def test_a_request_of_more_rows_than_the_limit_is_alone_and_whole(
    session: Session, data: Dataset, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "ROWS_AT_ONCE", 3)
    one, large = Ask("faces", "records", ("r9",)), Ask("faces", "subject", subject_id="bob")
    left = [page.Submission(given, "key_test") for given in (one, large, one)]
    assert len(intake.record_many(session, left, digester=DIGESTER, now=NOW)) == 1
    assert len(intake.record_many(session, left[1:], digester=DIGESTER, now=NOW)) == 1
    session.commit()
    assert lookup.rows(session, left[1].id) == list(range(4, 12))


def test_names_of_many_requests_are_each_list_once(
    session: Session, data: Dataset, model: Model
) -> None:
    made = ask(session, *[PERSON] * 5, Ask("faces", "class", label=1))
    names = naming.Names.of_ids(session, [one.id for one in made])
    assert names == naming.Names.of(made) == naming.Names(frozenset({made[0].id}), frozenset({1}))
