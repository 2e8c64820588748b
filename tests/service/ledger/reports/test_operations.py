"""What a look at the whole installation costs: it follows what is open, not what there ever was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import Engine, insert, text
from sqlalchemy.orm import Session

from benchmarks import counters
from service.ledger.audit import chain
from service.ledger.batches import leases
from service.ledger.database import db, inserts
from service.ledger.database.states import (
    BatchStatus,
    ErasureStatus,
    RequestStatus,
    RunStatus,
    VersionStatus,
)
from service.ledger.database.tables import (
    Artifact,
    Lease,
    TrainingRun,
    Verification,
)
from service.ledger.reports import operations
from tests import factories
from tests.factories import NOW

#: Ids of copies begin here.
FIRST = 1_000_000
AT_ONCE = 2_000


def _open_work(session: Session) -> None:
    """What a look is about, little of it."""
    data = factories.dataset(session, name="faces")
    model = factories.model(session, data, name="reader")
    live = factories.version(session, model)
    session.add(Verification(version_id=live.id, verdict="passed", measured={}, created_at=NOW))
    for row in range(3):
        asked = factories.request(session, data, rows=[row])
        factories.erasure(session, asked, model)
    factories.batch(session, model, live, rows=[5])
    leases.acquire(session, leases.of_model(model.id), owner="w", seconds=1e9, now=db.now())
    session.flush()


def _history(session: Session, numbers: range) -> None:
    """A finished request for each number, with all that one leaves behind."""
    data = factories.dataset(session)
    model = factories.model(session, data)
    live = factories.version(session, model)
    gone = factories.version(session, model, production=False, status=VersionStatus.PURGED)
    batch = factories.batch(session, model, live, rows=[1])
    batch.status = BatchStatus.COMPLETED
    asked = factories.request(session, data, rows=[1], status=RequestStatus.COMPLETED)
    share = factories.erasure(session, asked, model, status=ErasureStatus.COMPLETED)
    run = TrainingRun(
        id=f"run_{numbers.start}",
        model_id=model.id,
        status=RunStatus.COMPLETED,
        reason="request",
        seed=0,
        progress={},
        created_by="key:k",
        created_at=NOW,
    )
    verdict = Verification(version_id=gone.id, verdict="passed", measured={}, created_at=NOW)
    state = Artifact(
        version_id=gone.id,
        kind="states",
        digest="a" * 64,
        size_bytes=1,
        notes={},
        created_at=NOW,
        destroyed_at=NOW,
    )
    lease = Lease(key=f"purge:{numbers.start}", owner=None, until=NOW, fence=1)
    session.add_all([run, verdict, state, lease])
    session.flush()
    each: Sequence[tuple[Any, Any]] = (
        (gone, lambda n: {"id": FIRST + n, "number": FIRST + n}),
        (batch, lambda n: {"id": f"b_{n}"}),
        (asked, lambda n: {"id": f"dr_{n}", "rows_digest": None}),
        (share, lambda n: {"id": FIRST + n, "request_id": f"dr_{n}"}),
        (run, lambda n: {"id": f"run_{n}"}),
        (verdict, lambda n: {"id": FIRST + n, "version_id": FIRST + n}),
        (state, lambda n: {"id": FIRST + n, "version_id": FIRST + n}),
        (lease, lambda n: {"key": f"purge:{n}"}),
    )
    for row, changes in each:
        values = inserts.values(row)
        for first in range(1, len(numbers), AT_ONCE):
            copies = numbers[first : first + AT_ONCE]
            session.execute(insert(type(row)), [values | changes(n) for n in copies])
    for _ in range(3):
        chain.append(
            session, actor="w", action=chain.Action.BATCH_COMPLETED, subject="batch:b_1", data={}
        )


def test_only_what_is_open_or_stored_is_counted(session: Session) -> None:
    _open_work(session)
    before = operations.look(session, beat_seconds=10)
    _history(session, range(20))
    after = operations.look(session, beat_seconds=10)
    assert before.requests == after.requests == {"accepted": 3}
    assert before.erasures == after.erasures == {"pending": 3}
    assert before.batches == after.batches == {"running": 1}
    assert before.runs == after.runs == {}
    assert before.leases == after.leases == 1
    assert before.verdicts == after.verdicts == {"passed": 1}
    # The one of the history that is live is stored.
    assert before.versions == {"published": 1}
    assert after.versions == {"published": 2}


def test_bytes_are_those_of_stored_versions_and_of_state_that_still_exists(
    session: Session,
) -> None:
    assert operations.look(session, beat_seconds=10).bytes == {"checkpoints": 0}
    model = factories.model(session, factories.dataset(session))
    live = factories.version(session, model, size_bytes=7)
    factories.version(session, model, status=VersionStatus.PURGED, size_bytes=11)
    factories.artifact(session, live, size_bytes=3)
    factories.artifact(session, live, size_bytes=5, destroyed_at=NOW)
    assert operations.look(session, beat_seconds=10).bytes == {"checkpoints": 7, "caches": 3}


@pytest.mark.postgres
def test_a_look_reads_no_more_blocks_with_a_hundred_times_the_history(
    postgres_database: Engine,
) -> None:
    counters.flush_at_return(postgres_database)
    sessions = db.session_factory(postgres_database)

    def blocks() -> int:
        """The fewest of some looks: the first ones of a connection read the catalogue."""
        seen = []
        for _ in range(5):
            with counters.count(postgres_database) as counted, sessions() as session:
                operations.look(session, beat_seconds=10)
                operations.new_lines(session, after=0)
            seen.append(counted.blocks)
        return min(seen)

    with sessions.begin() as session:
        _open_work(session)
    taken = []
    for numbers in (range(100), range(100, 10_000)):
        with sessions.begin() as session:
            _history(session, numbers)
        with postgres_database.connect() as connection:
            connection.execute(text("ANALYZE"))
            connection.commit()
        taken.append(blocks())
    few, many = taken
    assert many <= 1.5 * few, taken
