"""Writers at once: none waits for another in a circle, and no deletion misses a model."""

from __future__ import annotations

import itertools
import random
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations_with_replacement
from pathlib import Path

import pytest
from sqlalchemy import Engine, event, select, text
from sqlalchemy.exc import DBAPIError

from service.errors import ServiceError
from service.ledger.database import db
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import AuditEvent, Dataset, DeletionRequest, Model
from service.ledger.requests import intake
from service.ledger.selection.matching import Ask
from service.ledger.training import runs
from tests import factories
from tests.workers import writers
from tests.workers.world import POLICY, World, missed
from tests.workers.writers import Writer

pytestmark = pytest.mark.postgres

#: The order that ``service.ledger.database.locks`` states; tables that are not named come before
#: the last.
ORDER = (
    "leases",
    "datasets",
    "models",
    "shown sets and files",
    "training_runs",
    "deletion_requests",
    "erasures",
)
LAST = "audit_head"
#: Rounds in which every writer finds something to write.
MOST_ROUNDS = 6

_UPDATE = re.compile(r"^\s*(?:UPDATE|DELETE FROM) (\w+)")
_INSERT = re.compile(r"^\s*INSERT INTO (\w+)")
_UPSERT = re.compile(r"^\s*INSERT INTO (\w+) .*ON CONFLICT", re.DOTALL)
_FROM = re.compile(r"\bFROM (\w+)")
_OF = re.compile(r"FOR (?:NO KEY )?(?:UPDATE|SHARE|KEY SHARE) OF ([\w, ]+?)(?: SKIP LOCKED)?\s*$")
_APPEND = re.compile(r"^SELECT audit_append\(")
_LOCKING = re.compile(r"FOR (?:NO KEY UPDATE|UPDATE|SHARE|KEY SHARE)")
_ADVISORY = re.compile(r"^SELECT pg_advisory_xact_lock\(")
#: Who does not wait for a lock cannot wait in a circle.
_SKIPPING = re.compile(r"SKIP LOCKED\s*$")


@pytest.fixture
def world(postgres_database: Engine, tmp_path: Path) -> World:
    return World.found(postgres_database, tmp_path)


def _writer(world: World, seed: int) -> Writer:
    return Writer(world, world.worker(f"w{seed}"), random.Random(seed))


def _locked(statement: str) -> list[str]:
    """Tables whose rows the statement locks for longer than itself."""
    if found := _UPDATE.match(statement) or _UPSERT.match(statement):
        return [found[1]]
    if named := _OF.search(statement):
        return [name.strip() for name in named[1].split(",")]
    if _APPEND.search(statement):
        return [LAST]
    if _ADVISORY.match(statement):
        return ["shown sets and files"]
    return [_FROM.findall(statement)[0]] if _LOCKING.search(statement) else []


def _checked(statement: str) -> list[str]:
    """Tables of which a foreign key of new rows locks rows that somebody may have locked fully.

    Rows of the other tables are never locked against such a check.
    """
    found = _INSERT.match(statement)
    if found is None:
        return []
    keys = db.Base.metadata.tables[found[1]].foreign_keys
    return [key.column.table.name for key in keys if key.column.table.name == "datasets"]


def _rank(table: str) -> int:
    if table == LAST:
        return len(ORDER) + 1
    return ORDER.index(table) if table in ORDER else len(ORDER)


@contextmanager
def _watched(engine: Engine) -> Iterator[list[str]]:
    """What was locked out of order, told as the statement and what was locked before it."""
    broken: list[str] = []
    held: dict[object, list[str]] = {}

    def look(connection, _cursor, statement, *_rest) -> None:
        mine = held.setdefault(connection.connection.dbapi_connection, [])
        for table in _locked(statement) + _checked(statement):
            if table in mine:
                continue
            waits = not _SKIPPING.search(statement)
            if waits and mine and _rank(table) < max(map(_rank, mine)):
                broken.append(f"{table} after {mine}: {' '.join(statement.split())[:150]}")
            mine.append(table)

    def done(connection) -> None:
        held.pop(connection.connection.dbapi_connection, None)

    event.listen(engine, "before_cursor_execute", look)
    event.listen(engine, "commit", done)
    event.listen(engine, "rollback", done)
    yield broken
    event.remove(engine, "before_cursor_execute", look)
    event.remove(engine, "commit", done)
    event.remove(engine, "rollback", done)


def test_every_writer_writes_and_locks_in_the_stated_order(world: World) -> None:
    """That each of them writes in this world shows that the tests of locks are about all."""
    writer = _writer(world, 2)
    idle = set(writers.ALL)
    with _watched(world.engine) as broken:
        for rounds in itertools.count(1):
            for name, act in writers.ALL.items():
                before = _head(world)
                _once(writer, act)
                if _head(world) > before:
                    idle.discard(name)
            # Later rounds lock nothing that the first three do not.
            if rounds >= MOST_ROUNDS or (rounds >= 3 and idle <= {"erase"}):
                break
        _finish(world)  # raw rows are erased once every model has forgotten them
    with world.transaction() as session:
        if session.scalars(select(AuditEvent.seq).filter_by(action="records:erased")).first():
            idle.discard("erase")
    assert idle == set()
    assert sorted(set(broken)) == []


@pytest.mark.slow
@pytest.mark.parametrize("first", writers.ALL)
def test_two_writers_at_once_never_deadlock_and_miss_no_model(world: World, first: str) -> None:
    for act in writers.ALL.values():
        _once(_writer(world, 3), act)
    pairs = [pair for pair in combinations_with_replacement(writers.ALL, 2) if pair[0] == first]
    before = _deadlocks(world)
    met: list[str] = []
    for seed, pair in enumerate(pairs):
        _at_once(world, pair, seed=10 * seed, met=met)
    assert met == []
    assert _deadlocks(world) == before
    with world.transaction() as session:
        assert missed(session) == []


def _at_once(world: World, pair: tuple[str, str], *, seed: int, met: list[str]) -> None:
    """Both writers some times over, beginning together each time."""
    start = threading.Barrier(2)

    def run(place: int) -> None:
        writer = _writer(world, seed + place)
        for _ in range(2):
            start.wait(60)
            try:
                _once(writer, writers.ALL[pair[place]])
            except DBAPIError as error:
                met.append(f"{pair}: {type(error.orig).__name__}")
            except Exception as error:  # it would end the thread, and nobody would see it
                met.append(f"{pair}: {error!r}")

    threads = [threading.Thread(target=run, args=(place,)) for place in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _once(writer: Writer, act) -> None:
    try:
        act(writer)
    except ServiceError:  # refused: another was quicker
        return


def _head(world: World) -> int:
    with world.transaction() as session:
        return int(session.execute(text("SELECT seq FROM audit_head")).scalar_one())


def _deadlocks(world: World) -> int:
    with world.transaction() as session:
        session.execute(text("SELECT pg_stat_force_next_flush()"))
        wanted = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        return int(session.execute(text(wanted)).scalar_one())


def test_request_recorded_while_another_model_goes_live_concerns_that_model(world: World) -> None:
    """The intake stands still between reading the models and its end, meanwhile a model trains."""
    with world.transaction() as session:
        name = world.datasets[0]
        data = session.scalars(select(Dataset).filter_by(name=name)).one()
        late = factories.model(session, data, policy=POLICY)
        run = runs.create(session, late, actor="key:k", now=db.now())
    recorder = threading.Thread(target=_record, args=(world, name))
    trainer = threading.Thread(target=_writer(world, 5).run, args=(run.id,))
    with db.session_factory(world.engine).begin() as stall:
        # The live model has a limit per day, so that its row is locked after the models were read.
        stall.execute(select(Model.id).where(Model.id == world.models[0]).with_for_update())
        recorder.start()
        _until_waiting(world, 1)
        trainer.start()
        while trainer.is_alive() and _waiting(world) < 2:
            trainer.join(0.01)
    recorder.join()
    trainer.join()
    with world.transaction() as session:
        [asked] = session.scalars(select(DeletionRequest)).all()
        assert session.get_one(Model, late.id).production_id is not None
    _finish(world)
    with world.transaction() as session:
        assert session.get_one(DeletionRequest, asked.id).status == RequestStatus.COMPLETED
        assert missed(session) == []


def _record(world: World, name: str) -> None:
    with world.transaction() as session:
        intake.record(
            session,
            Ask(name, "records", ("r7",)),
            principal="key_test",
            digester=factories.DIGESTER,
            now=db.now(),
        )


def _finish(world: World) -> None:
    """Unlearn on every model, erase and settle."""
    writer = _writer(world, 6)
    with world.transaction() as session:
        every = session.scalars(select(Model.id).order_by(Model.id)).all()
    for model_id in every:
        writer.batch(model_id)
    writer.erase()


def _waiting(world: World) -> int:
    with world.transaction() as session:
        wanted = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return int(session.execute(text(wanted)).scalar_one())


def _until_waiting(world: World, count: int) -> None:
    for _ in range(6000):
        if _waiting(world) >= count:
            return
        threading.Event().wait(0.01)
    raise AssertionError("nobody waits for a lock")
