"""The short form of ``make faults``: real processes, broken on purpose, and the promises kept."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tests.faults import breakages, harness, servers

SEED = int(os.environ.get("UNLEARN_TEST_SEED", "1"))


def need_servers() -> None:
    missing = servers.installed()
    if missing is None:
        return
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"CI needs it: {missing} is not installed")
    pytest.skip(f"{missing} is not installed: the fault harness starts servers of its own")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory that an unprivileged PostgreSQL can enter."""
    for path in (tmp_path, *tmp_path.parents):
        if path.owner() == Path.home().owner() and not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o011)
    return tmp_path


@pytest.mark.postgres
@pytest.mark.redis
def test_nothing_is_lost_or_repeated_whatever_breaks(home: Path) -> None:
    need_servers()
    outcome = harness.run(home, breakages.SHORT, seed=SEED)
    assert outcome.broken == []
    assert set(outcome.broke) == set(breakages.SHORT)
    assert outcome.ledger["requests completed"] > 20


def test_embedded_form_keeps_the_same_promises(home: Path) -> None:
    outcome = harness.run(home, breakages.EMBEDDED, seed=SEED, embedded=True)
    assert outcome.broken == []
    assert set(outcome.broke) == set(breakages.EMBEDDED)
    assert threading.active_count() < 20
