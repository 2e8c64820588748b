"""The short form of ``make faults``: real processes, broken on purpose, and the promises kept."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, text

from service.ledger.database.tables import Dataset
from tests.faults import catalogue, harness, promises, servers
from tests.faults.outcome import Outcome
from tests.faults.plan import DATASET, MODEL, Withdrawal

SEED = int(os.environ.get("UNLEARN_TEST_SEED", "1"))


def need_servers() -> None:
    missing = servers.installed()
    if missing is None:
        return
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"CI needs it: {missing} is not installed")
    pytest.skip(f"{missing} is not installed: the fault harness starts servers of its own")


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory for one run; not pytest's, which an unprivileged PostgreSQL cannot enter."""
    with servers.home() as made:
        yield made


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.redis
def test_nothing_is_lost_or_repeated_whatever_breaks(home: Path) -> None:
    need_servers()
    outcome = harness.run(home, catalogue.SHORT, seed=SEED)
    assert outcome.broken == []
    assert set(outcome.broke) == set(catalogue.SHORT)
    assert outcome.ledger["requests completed"] > 20


#: What a broken service would leave behind (SQL statements), and what the harness must say of it.
LEFT = {
    "has not ended": "UPDATE deletion_requests SET status = 'processing' WHERE id = :completed",
    "is missing": "DELETE FROM deletion_requests WHERE id = :cancelled",
    "still runs": "UPDATE batches SET status = 'running' WHERE id = (SELECT max(id) FROM batches)",
    "without a completed batch": "UPDATE erasures SET batch_id = NULL",
    "have gaps": "UPDATE versions SET number = 1000 WHERE number = 1",
    "production of m holds": "UPDATE versions SET clean_revision = 0;"
    " DELETE FROM batch_records WHERE row IN (SELECT row FROM records"
    " WHERE erased_at IS NOT NULL)",
    "not verified": "UPDATE verifications SET verdict = 'failed'",
    "did not point to": "UPDATE alias_moves SET previous_id = NULL",
    "where its history says": "DELETE FROM alias_moves"
    " WHERE id = (SELECT max(id) FROM alias_moves)",
    "erased=None": "UPDATE records SET erased_at = NULL",
    "rows are erased and": "UPDATE records SET erased_at = NULL",
    "denied=False": "UPDATE deletion_requests SET status = 'denied' WHERE id = :cancelled",
    "is still held": "UPDATE batches SET status = 'held' WHERE id = (SELECT max(id) FROM batches)",
    "went live before its time": "UPDATE batches SET held_until ="
    " (SELECT max(due_at) FROM deletion_requests)",
    "was held beyond the due date": "UPDATE batches SET held_until = created_at;"
    " UPDATE deletion_requests SET due_at = created_at",
    "went live after it was withdrawn": "UPDATE versions SET withdrawn_at ="
    " (SELECT min(created_at) FROM models)",
    "was withdrawn and is published": "UPDATE versions SET withdrawn_at = created_at",
    "has a live version": "UPDATE models SET withdrawn_at = created_at",
    "of a withdrawn model is not withdrawn": "UPDATE models SET withdrawn_at = created_at",
    "is withdrawn and not destroyed": "UPDATE models SET withdrawn_at = created_at",
    "waits for a withdrawn model": "UPDATE models SET withdrawn_at = created_at;"
    " UPDATE erasures SET status = 'pending'",
    "is withdrawn and ready": "UPDATE datasets SET withdrawn_at = created_at WHERE name = 'digits'",
    "have kept their ids": "UPDATE datasets SET withdrawn_at = created_at WHERE name = 'digits'",
    "has 2 lines": "DROP TRIGGER audit_events_in_order; DROP TRIGGER audit_events_move_head;"
    " INSERT INTO audit_events SELECT seq + 1000000, at, actor, action, subject,"
    " data, previous_hash, hash FROM audit_events WHERE action = 'version:purged'",
    "follow version": "UPDATE versions SET parent_id = anchor_id WHERE origin = 'unlearned'",
}


@pytest.mark.slow
def test_embedded_form_keeps_the_same_promises_and_a_broken_one_would_be_seen(home: Path) -> None:
    """One test, because both halves need the same run."""
    outcome = harness.run(home, catalogue.EMBEDDED, seed=SEED, embedded=True)
    assert outcome.broken == []
    assert set(outcome.broke) == set(catalogue.EMBEDDED)
    assert [words for words in LEFT if not _seen(outcome, words)] == []
    found = _after_damage(outcome)
    assert any("orphan" in one.words for one in found)
    assert any("is not what it should be" in one.words for one in found)
    assert any("said the API, and is not" in one.words for one in found)


def _seen(outcome: Outcome, words: str) -> bool:
    """Whether the harness says so of a ledger that was tampered with."""
    fleet, accepted = outcome.fleet, outcome.accepted
    assert fleet is not None
    with fleet.sessions() as session:
        session.execute(text("PRAGMA defer_foreign_keys = ON"))
        ids = {
            end: session.scalar(
                text("SELECT min(id) FROM deletion_requests WHERE status = :end"), {"end": end}
            )
            for end in ("completed", "cancelled")
        }
        for statement in LEFT[words].split(";"):
            session.execute(text(statement), ids)
        found = promises.broken_at_rest(fleet, session, accepted)
        session.rollback()
    return any(words in one.words for one in found)


def _after_damage(outcome: Outcome) -> list[promises.Broken]:
    """What the harness says when a row came back, a file lies about, and an answer was untrue."""
    fleet = outcome.fleet
    assert fleet is not None
    orphan = fleet.settings.store / "checkpoints" / ("0" * 64)
    orphan.mkdir()
    os.utime(orphan, (0, 0))
    with fleet.reading() as session:
        key = session.scalars(select(Dataset.array_key).filter_by(name=DATASET)).one()
    assert key is not None
    rows = fleet.settings.store / "arrays" / key / "rows.npy"
    rows.chmod(0o644)
    content = bytearray(rows.read_bytes())
    content[-64:] = bytes(64) if any(content[-64:]) else b"x" * 64
    rows.write_bytes(content)
    fleet.withdrawn.append(Withdrawal("model", MODEL))
    with fleet.reading() as session:
        return promises.broken_at_rest(fleet, session, outcome.accepted)
