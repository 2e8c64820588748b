"""The same idempotency key gets the same answer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.ledger.database import db
from service.ledger.database.tables import DeletionRequest, IdempotencyKey
from service.ledger.requests import idempotency, intake, page
from service.ledger.selection.matching import Ask
from tests import factories
from tests.factories import DIGESTER, NOW


def _submission(
    dataset: str, *, record: str = "r0", principal: str = "key_a", key: str = "k"
) -> page.Submission:
    claim = idempotency.Claim(principal, key, DIGESTER.bodies(principal, record))
    return page.Submission(Ask(dataset, "records", (record,)), principal, claim)


def _record(session: Session, *submissions: page.Submission) -> list[object]:
    return list(intake.record_many(session, submissions, digester=DIGESTER, now=NOW))


def test_a_repeated_call_gets_the_answer_of_the_first(session: Session) -> None:
    data = factories.dataset(session)
    [first] = _record(session, _submission(data.name))
    session.commit()
    session.scalars(select(DeletionRequest)).one().status_reason = "changed since"
    session.commit()
    [second] = _record(session, _submission(data.name))
    assert isinstance(first, page.Receipt)
    assert isinstance(second, page.Receipt)
    assert (first.repeated, second.repeated) == (False, True)
    assert second.answer == first.answer
    assert len(session.scalars(select(DeletionRequest)).all()) == 1


def test_another_body_under_the_same_key_is_refused(session: Session) -> None:
    data = factories.dataset(session)
    _record(session, _submission(data.name))
    [refusal] = _record(session, _submission(data.name, record="r1"))
    assert isinstance(refusal, idempotency.KeyReused)


def test_a_key_belongs_to_its_principal(session: Session) -> None:
    data = factories.dataset(session)
    made = _record(session, _submission(data.name), _submission(data.name, principal="key_b"))
    assert [getattr(one, "repeated", None) for one in made] == [False, False]


def test_repeats_in_one_transaction_are_seen(session: Session) -> None:
    data = factories.dataset(session)
    made = _record(
        session,
        _submission(data.name),
        _submission(data.name),
        _submission(data.name, record="r1"),
    )
    assert [getattr(one, "repeated", None) for one in made] == [False, True, None]
    assert isinstance(made[2], idempotency.KeyReused)


def test_a_key_outlives_the_rotation_of_the_digest_key(session: Session) -> None:
    data = factories.dataset(session)
    _record(session, _submission(data.name))
    rotated = type(DIGESTER)((b"a-newer-key" * 4, *DIGESTER.keys))
    claim = idempotency.Claim("key_a", "k", rotated.bodies("key_a", "r0"))
    again = page.Submission(Ask(data.name, "records", ("r0",)), "key_a", claim)
    [second] = intake.record_many(session, [again], digester=rotated, now=NOW)
    assert isinstance(second, page.Receipt)
    assert second.repeated


def test_a_refused_request_leaves_its_key_free(session: Session) -> None:
    _record(session, _submission("not-there-yet"))
    data = factories.dataset(session, name="not-there-yet")
    [made] = _record(session, _submission(data.name))
    assert isinstance(made, page.Receipt)
    assert not made.repeated


def test_simultaneous_transactions_record_one_request(database: Engine) -> None:
    sessions = db.session_factory(database)
    with sessions() as setup:
        name = factories.dataset(setup).name
        setup.commit()

    def post(_number: int) -> str:
        while True:
            with sessions() as session:
                try:
                    [made] = _record(session, _submission(name))
                    session.commit()
                except IntegrityError:
                    continue
                assert isinstance(made, page.Receipt)
                return str(made.answer["id"])

    with ThreadPoolExecutor(8) as pool:
        answered = set(pool.map(post, range(24)))
    with sessions() as session:
        assert session.scalars(select(DeletionRequest.id)).all() == list(answered)


def test_old_answers_are_pruned(session: Session) -> None:
    data = factories.dataset(session)
    _record(session, _submission(data.name, key="old"))
    session.scalars(select(IdempotencyKey)).one().created_at = NOW - timedelta(days=8)
    _record(session, _submission(data.name, key="new"))
    session.flush()
    assert idempotency.prune(session, before=NOW - timedelta(days=7)) == 1
    assert session.scalars(select(IdempotencyKey.key)).all() == ["new"]


def test_the_body_is_kept_as_a_keyed_digest_only(session: Session) -> None:
    data = factories.dataset(session)
    _record(session, _submission(data.name, record="planted"))
    session.flush()
    row = session.scalars(select(IdempotencyKey)).one()
    assert "planted" not in repr((row.body_digest, row.answer))
    with pytest.raises(idempotency.KeyReused):
        idempotency.replay(row, idempotency.Claim("key_a", "k", ("0" * 64,)))
