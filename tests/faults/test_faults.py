"""The short form of ``make faults``: real processes, broken on purpose, and the promises kept."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.faults import breakages, harness, promises, servers

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


@pytest.mark.postgres
@pytest.mark.redis
def test_nothing_is_lost_or_repeated_whatever_breaks(home: Path) -> None:
    need_servers()
    outcome = harness.run(home, breakages.SHORT, seed=SEED)
    assert outcome.broken == []
    assert set(outcome.broke) == set(breakages.SHORT)
    assert outcome.ledger["requests completed"] > 20


@pytest.fixture(scope="module")
def embedded() -> Iterator[harness.Outcome]:
    """A run of the embedded form, with its files."""
    with servers.home() as made:
        yield harness.run(made, breakages.EMBEDDED, seed=SEED, embedded=True)


def test_embedded_form_keeps_the_same_promises(embedded: harness.Outcome) -> None:
    assert embedded.broken == []
    assert set(embedded.broke) == set(breakages.EMBEDDED)


#: What a broken service would leave behind, and what the harness must say of it.
LEFT = {
    "has not ended": "UPDATE deletion_requests SET status = 'processing' WHERE id = :completed",
    "is missing": "DELETE FROM deletion_requests WHERE id = :no_match",
    "still runs": "UPDATE batches SET status = 'running' WHERE id = (SELECT max(id) FROM batches)",
    "without a completed batch": "UPDATE erasures SET batch_id = NULL",
    "have gaps": "UPDATE versions SET number = 1000 WHERE number = 1",
    "production holds": "DELETE FROM batch_records WHERE row IN (SELECT row FROM records"
    " WHERE erased_at IS NOT NULL)",
    "not verified": "UPDATE verifications SET verdict = 'failed'",
    "did not point to": "UPDATE alias_moves SET previous_id = NULL",
    "where its history says": "DELETE FROM alias_moves"
    " WHERE id = (SELECT max(id) FROM alias_moves)",
    "erased=None": "UPDATE records SET erased_at = NULL",
    "rows are erased and": "UPDATE records SET erased_at = NULL",
    "follow version": "UPDATE versions SET parent_id = anchor_id WHERE origin = 'unlearned'",
}


@pytest.mark.parametrize("words", LEFT)
def test_harness_sees_what_a_broken_service_would_leave(
    embedded: harness.Outcome, words: str
) -> None:
    fleet = embedded.fleet
    assert fleet is not None
    by_status = {one.status: one.id for one in embedded.accepted}
    with fleet.sessions() as session:
        session.execute(text("PRAGMA defer_foreign_keys = ON"))
        completed = session.scalar(
            text("SELECT id FROM deletion_requests WHERE status = 'completed'")
        )
        session.execute(
            text(LEFT[words]),
            {"completed": completed, "no_match": by_status.get("no_match", completed)},
        )
        assert any(
            words in one for one in promises.broken_at_rest(fleet, session, embedded.accepted)
        )
        session.rollback()


def test_harness_sees_a_row_that_came_back_and_a_file_that_nobody_knows(
    embedded: harness.Outcome,
) -> None:
    fleet = embedded.fleet
    assert fleet is not None
    orphan = fleet.settings.store / "checkpoints" / ("0" * 64)
    orphan.mkdir()
    os.utime(orphan, (0, 0))
    (rows,) = fleet.settings.store.glob("arrays/*/rows.npy")
    rows.chmod(0o644)
    content = bytearray(rows.read_bytes())
    content[-64:] = bytes(64) if any(content[-64:]) else b"x" * 64
    rows.write_bytes(content)
    with fleet.reading() as session:
        found = promises._files(fleet, session) + promises._array(fleet, session)
    assert any("orphan" in one for one in found)
    assert any("is not what it should be" in one for one in found)
