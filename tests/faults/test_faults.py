"""The short form of ``make faults``: real processes, broken on purpose, and the promises kept."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
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


def test_embedded_form_keeps_the_same_promises(home: Path) -> None:
    outcome = harness.run(home, breakages.EMBEDDED, seed=SEED, embedded=True)
    assert outcome.broken == []
    assert set(outcome.broke) == set(breakages.EMBEDDED)
    assert threading.active_count() < 20
