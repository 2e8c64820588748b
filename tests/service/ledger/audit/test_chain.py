"""The audit chain, on both databases."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, func, select, text
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import Session

from service.ledger.audit import canonical, chain, hash_chain, signing
from service.ledger.database import db
from service.ledger.database.tables import AuditEvent, Dataset
from tests import factories

SIGNER = signing.Signer.from_seed(bytes(range(32)))

#: Every way to change a stored line that a thief of the database might try.
TAMPERINGS = {
    "data": """UPDATE audit_events SET data = '{"n": 7}' WHERE seq = 3""",
    "actor": "UPDATE audit_events SET actor = 'key:somebody' WHERE seq = 3",
    "action": "UPDATE audit_events SET action = 'key:revoked' WHERE seq = 3",
    "subject": "UPDATE audit_events SET subject = 'key:other' WHERE seq = 3",
    "time": "UPDATE audit_events SET at = '2020-01-01 00:00:00.000001+00:00' WHERE seq = 3",
    "hash": "UPDATE audit_events SET hash = previous_hash WHERE seq = 3",
    "previous hash": "UPDATE audit_events SET previous_hash = hash WHERE seq = 3",
    "deleted": "DELETE FROM audit_events WHERE seq = 3",
    "renumbered": "UPDATE audit_events SET seq = 99 WHERE seq = 3",
}


def test_lines_are_numbered_and_each_names_the_hash_of_the_one_before(session: Session) -> None:
    lines = _append(session, 3)
    assert [line.seq for line in lines] == [1, 2, 3]
    assert [line.previous_hash for line in lines] == [
        hash_chain.GENESIS,
        lines[0].hash,
        lines[1].hash,
    ]


def test_the_hash_is_that_of_the_canonical_line_without_its_hash(session: Session) -> None:
    (line,) = _append(session, 1)
    covered = {
        "action": "key:created",
        "actor": "system",
        "at": line.at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "data": {"n": 0},
        "previous_hash": "0" * 64,
        "seq": 1,
        "subject": "key:k0",
    }
    assert line.hash == canonical.digest(covered)


def test_a_line_reads_back_as_it_was_hashed(database: Engine) -> None:
    data = {
        "share": 1 / 3,
        "whole": 2.0,
        "tiny": 5e-324,
        "large": 1e20,
        "seed": 2**63 - 1,
        "words": "schön \u0007 \ud83d\ude00",
        "none": None,
        "list": [True, -0.0, float("nan")],
        "at": factories.NOW,
    }
    with db.session_factory(database)() as session:
        _append_one(session, data)
        session.commit()
    with db.session_factory(database)() as session:
        line = session.scalars(select(AuditEvent)).one()
        assert hash_chain.own_problem(chain.describe(line)) is None
        assert line.data["seed"] == str(2**63 - 1)
        assert line.data["list"] == [True, 0, "nan"]
        assert line.data["at"] == "2026-03-01T12:00:00.000000Z"


def test_what_is_not_json_is_refused_before_anything_is_queued(session: Session) -> None:
    with pytest.raises(TypeError, match="bytes"):
        _append_one(session, {"secret": b"x"})
    session.commit()
    assert chain.page(session, limit=10) == []


def test_a_transaction_rolled_back_leaves_no_line(session: Session) -> None:
    _append_one(session)
    session.rollback()
    _append(session, 1)
    assert [line.seq for line in chain.page(session, limit=10)] == [1]


def test_a_savepoint_rolled_back_takes_only_its_own_lines_along(session: Session) -> None:
    _append_one(session, {"n": "before"})
    with session.begin_nested() as savepoint:
        _append_one(session, {"n": "inside"})
        savepoint.rollback()
    with session.begin_nested():
        _append_one(session, {"n": "kept"})
    session.commit()
    assert [line.data["n"] for line in chain.page(session, limit=10)] == ["kept", "before"]


def test_lines_read_inside_a_savepoint_survive_its_rollback(session: Session) -> None:
    _append_one(session, {"n": "before"})
    with session.begin_nested() as savepoint:
        _append_one(session, {"n": "inside"})
        assert session.scalar(select(func.count()).select_from(AuditEvent)) == 2
        savepoint.rollback()
    session.commit()
    assert [line.data["n"] for line in chain.page(session, limit=10)] == ["before"]
    assert chain.verify(session).sound


def test_a_session_used_again_begins_with_an_empty_queue(session: Session) -> None:
    _append(session, 2)
    session.commit()
    _append(session, 2)
    session.close()
    _append(session, 1)
    assert chain.verify(session) == chain.Checked(5, 5, chain.page(session, limit=1)[0].hash)


def test_lines_in_a_failed_commit_are_gone_and_the_chain_goes_on(session: Session) -> None:
    factories.dataset(session, rows=0, name="twice")
    session.commit()
    session.add(_copy_of(session))
    _append_one(session)
    with pytest.raises(DatabaseError):
        session.commit()
    session.rollback()
    _append(session, 1)
    assert chain.verify(session).lines == 1


def test_many_writers_make_one_chain_without_a_gap(database: Engine) -> None:
    sessions = db.session_factory(database)

    def write() -> None:
        for n in range(8):
            with sessions() as session:
                _append_one(session, {"n": n})
                if n % 4 == 3:
                    session.rollback()
                else:
                    session.commit()

    writers = [threading.Thread(target=write) for _ in range(6)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    with sessions() as session:
        checked = chain.verify(session)
    assert checked.sound
    assert checked.lines == 6 * 6


@pytest.mark.postgres
def test_writers_that_touch_the_same_rows_in_the_end_do_not_deadlock(
    postgres_database: Engine,
) -> None:
    """A appends, then changes a row that B holds while B appends: the chain is locked last."""
    sessions = db.session_factory(postgres_database)
    with sessions() as session:
        data = factories.dataset(session, rows=0)
        session.commit()
    held, appended = threading.Event(), threading.Event()

    def change(first: bool) -> None:
        with sessions() as session:
            if first:
                _append_one(session)
                appended.set()
                held.wait(10)
            row = session.get_one(Dataset, data.id, with_for_update=True)
            row.revision += 1
            if not first:
                held.set()
                appended.wait(10)
                _append_one(session)
            session.commit()

    both = [threading.Thread(target=change, args=(first,)) for first in (True, False)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    with sessions() as session:
        assert session.get_one(Dataset, data.id).revision == 2
        assert chain.verify(session).lines == 2


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_the_database_refuses_to_change_a_line(session: Session, tampering: str) -> None:
    _append(session, 5)
    with pytest.raises(DatabaseError, match="append-only"):
        session.execute(text(TAMPERINGS[tampering]))
    session.rollback()
    assert chain.verify(session).sound


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_tampering_behind_the_triggers_is_found_at_its_line(
    database: Engine, tampering: str
) -> None:
    with db.session_factory(database)() as session:
        _append(session, 5)
    with _without_triggers(database) as connection:
        connection.execute(text(TAMPERINGS[tampering]))
    with db.session_factory(database)() as session:
        checked = chain.verify(session)
    assert not checked.sound
    assert checked.bad_seq == 3
    assert checked.lines == 2


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_head SET seq = 1",
        "DELETE FROM audit_head",
        "INSERT INTO audit_events SELECT seq + 7, at, actor, action, subject, data, hash, hash"
        " FROM audit_events WHERE seq = 5",
        "INSERT INTO audit_events SELECT seq + 1, at, actor, action, subject, data,"
        " previous_hash, hash FROM audit_events WHERE seq = 5",
    ],
)
def test_the_database_refuses_a_head_that_goes_back_and_lines_out_of_order(
    session: Session, statement: str
) -> None:
    _append(session, 5)
    with pytest.raises(DatabaseError, match=r"forward only|append-only|stays|must follow"):
        session.execute(text(statement))
    session.rollback()
    assert chain.verify(session).sound


def test_a_cut_tail_shows_against_the_head_and_with_the_head_against_a_checkpoint(
    database: Engine,
) -> None:
    with db.session_factory(database)() as session:
        _append(session, 5)
        kept = chain.checkpoint(session, SIGNER, now=factories.NOW)
    with _without_triggers(database) as connection:
        connection.execute(text("DELETE FROM audit_events WHERE seq = 5"))
    with db.session_factory(database)() as session:
        assert chain.verify(session).problem == "the line is missing"
        line = chain.page(session, limit=1)[0]
    with _without_triggers(database) as connection:
        connection.execute(text("UPDATE audit_head SET seq = 4, hash = :hash"), {"hash": line.hash})
    with db.session_factory(database)() as session:
        assert chain.verify(session).sound
        assert not chain.holds(session, seq=kept["seq"], hash=kept["hash"])


def test_an_unreadable_line_is_found_not_stumbled_over(sqlite_database: Engine) -> None:
    with db.session_factory(sqlite_database)() as session:
        _append(session, 5)
    with _without_triggers(sqlite_database) as connection:
        connection.execute(text("UPDATE audit_events SET at = 'yesterday' WHERE seq = 4"))
    with db.session_factory(sqlite_database)() as session:
        checked = chain.verify(session)
    assert (checked.lines, checked.bad_seq) == (3, 4)


def test_verify_since_a_line_checks_only_what_follows(database: Engine) -> None:
    with db.session_factory(database)() as session:
        _append(session, 5)
    with _without_triggers(database) as connection:
        connection.execute(text("UPDATE audit_events SET actor = 'x' WHERE seq = 2"))
    with db.session_factory(database)() as session:
        assert chain.verify(session, since=2).lines == 3
        assert chain.verify(session, since=1).bad_seq == 2
        assert not chain.verify(session, since=77).sound


def test_a_checkpoint_is_the_signed_head(session: Session) -> None:
    lines = _append(session, 2)
    signed = chain.checkpoint(session, SIGNER, now=factories.NOW)
    assert signing.check(signed, signing.embedded(signed)) == SIGNER.key_id
    assert (signed["seq"], signed["hash"]) == (2, lines[1].hash)
    assert chain.holds(session, seq=2, hash=signed["hash"])


def test_an_empty_chain_verifies_and_has_a_checkpoint(session: Session) -> None:
    assert chain.verify(session) == chain.Checked(0, 0, hash_chain.GENESIS)
    signed = chain.checkpoint(session, SIGNER, now=factories.NOW)
    assert chain.holds(session, seq=signed["seq"], hash=signed["hash"])


def test_pages_go_back_from_the_newest_line_and_filter(session: Session) -> None:
    _append(session, 5)
    first = chain.page(session, limit=2)
    assert [line.seq for line in first] == [5, 4]
    assert [line.seq for line in chain.page(session, limit=9, before=4)] == [3, 2, 1]
    assert [line.seq for line in chain.page(session, limit=9, subject="key:k1")] == [2]
    assert chain.page(session, limit=9, action=chain.Action.KEY_REVOKED) == []


def _append(session: Session, count: int) -> list[AuditEvent]:
    lines = [chain.Line(chain.Action.KEY_CREATED, f"key:k{n}", {"n": n}) for n in range(count)]
    chain.append_many(session, actor="system", lines=lines)
    session.commit()
    return chain.page(session, limit=count)[::-1]


def _append_one(session: Session, data: dict[str, Any] | None = None) -> None:
    chain.append(
        session,
        actor="system",
        action=chain.Action.KEY_CREATED,
        subject="key:k",
        data=data or {},
    )


def _copy_of(session: Session) -> Dataset:
    known = session.scalars(select(Dataset)).one()
    return Dataset(name=known.name, status=known.status, source={}, created_at=known.created_at)


@contextmanager
def _without_triggers(database: Engine) -> Iterator[Any]:
    """A transaction of somebody who owns the database and switches its triggers off."""
    tables = ("audit_events", "audit_head")
    with database.begin() as connection:
        if database.dialect.name == "sqlite":
            names = connection.scalars(
                text("SELECT name FROM sqlite_master WHERE type = 'trigger'")
            ).all()
            for name in names:
                connection.execute(text(f"DROP TRIGGER {name}"))
            yield connection
            return
        for table in tables:
            connection.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER USER"))
        yield connection
        for table in tables:
            connection.execute(text(f"ALTER TABLE {table} ENABLE TRIGGER USER"))


@pytest.mark.postgres
def test_the_head_moves_once_for_all_lines_of_a_transaction(postgres_database: Engine) -> None:
    """Each move leaves a dead row behind, which whoever looks for work would have to pass."""
    moves = text("SELECT pg_stat_get_xact_tuples_updated('audit_head'::regclass)")
    with db.session_factory(postgres_database)() as session:
        before = session.scalar(moves)
        lines = [chain.Line(chain.Action.KEY_CREATED, f"key:k{n}") for n in range(500)]
        chain.append_many(session, actor="system", lines=lines)
        chain.write(session)
        assert session.scalar(moves) == before + 1
        assert chain.verify(session).lines == 500
