"""Sign-ins to the console: what is kept of them, and what ends them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger.audit import chain
from service.ledger.database.tables import ApiKey, AuditEvent, ConsoleSession
from service.ledger.registry import console_sessions, keys
from tests.factories import NOW


@pytest.fixture
def key(session: Session) -> ApiKey:
    row, _ = keys.create(session, "one", ["admin"], actor="cli", now=NOW)
    return row


def test_a_session_is_found_by_its_secret_alone(session: Session, key: ApiKey) -> None:
    first = console_sessions.begin(session, key.id, minutes=60, now=NOW)
    second = console_sessions.begin(session, key.id, minutes=60, now=NOW)
    assert first != second
    found = console_sessions.find(session, first, now=NOW)
    assert found is not None
    assert found[1].id == key.id
    assert console_sessions.find(session, first + "x", now=NOW) is None


def test_neither_secret_stands_in_the_database(session: Session, key: ApiKey) -> None:
    secret = console_sessions.begin(session, key.id, minutes=60, now=NOW)
    chain.write(session)
    stored = session.execute(select(*ConsoleSession.__table__.columns)).one()
    lines = session.scalars(select(AuditEvent)).all()
    assert secret not in repr(tuple(stored)) + repr([chain.describe(one) for one in lines])
    assert [one.action for one in lines][-1] == "key:signed_in"


def test_a_session_ends_at_its_time_and_is_removed_by_the_next_sign_in(
    session: Session, key: ApiKey
) -> None:
    secret = console_sessions.begin(session, key.id, minutes=60, now=NOW)
    end = NOW + timedelta(minutes=60)
    assert console_sessions.find(session, secret, now=end - timedelta(microseconds=1)) is not None
    assert console_sessions.find(session, secret, now=end) is None
    console_sessions.begin(session, key.id, minutes=60, now=end)
    assert len(session.scalars(select(ConsoleSession)).all()) == 1


def test_a_session_ends_with_its_key(session: Session, key: ApiKey) -> None:
    secret = console_sessions.begin(session, key.id, minutes=60, now=NOW)
    keys.revoke(session, key.id, actor="cli", now=NOW)
    assert console_sessions.find(session, secret, now=NOW) is None


def test_a_session_ends_when_its_key_expires(session: Session) -> None:
    until = NOW + timedelta(minutes=5)
    row, _ = keys.create(session, "brief", ["admin"], until, actor="cli", now=NOW)
    secret = console_sessions.begin(session, row.id, minutes=60, now=NOW)
    assert console_sessions.find(session, secret, now=until - timedelta(seconds=1)) is not None
    assert console_sessions.find(session, secret, now=until) is None


def test_signing_out_ends_one_session_once(session: Session, key: ApiKey) -> None:
    gone, kept = (console_sessions.begin(session, key.id, minutes=60, now=NOW) for _ in range(2))
    console_sessions.end(session, gone)
    console_sessions.end(session, gone)
    assert console_sessions.find(session, gone, now=NOW) is None
    assert console_sessions.find(session, kept, now=NOW) is not None
    chain.write(session)
    actions = session.scalars(select(AuditEvent.action)).all()
    assert actions.count("key:signed_out") == 1
