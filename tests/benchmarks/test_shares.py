"""Benchmarks' servers held to a share of a processor."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import shares

BUSY = "while True: pass"


@pytest.fixture
def busy():
    process = subprocess.Popen([sys.executable, "-c", BUSY])
    yield process.pid
    process.kill()
    process.wait()


def state(pid: int) -> str:
    """The state of a process: R runs, S sleeps, T is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_held_process_uses_no_more_than_its_share(busy):
    with shares.held(0.2, [busy]):
        begun, before = time.monotonic(), shares.processor_seconds(busy)
        while time.monotonic() - begun < 1:
            pass  # as busy as the other one
        used = shares.processor_seconds(busy) - before
        elapsed = time.monotonic() - begun

    # What the busy process may run between two looks depends on the machine, not on the share.
    assert 0 < used < 0.6 * elapsed


def test_a_process_runs_on_afterwards(busy):
    with shares.held(0.01, [busy]):
        while state(busy) != "T":
            time.sleep(0.001)

    assert state(busy) != "T"


def test_a_process_that_has_ended_is_no_error(busy):
    with shares.held(0.5, [busy]):
        ended = subprocess.Popen(["kill", "-9", str(busy)])
        ended.wait()


@pytest.mark.parametrize("share", [0, -1, 1, 1.5])
def test_what_is_no_share_is_refused(busy, share):
    with pytest.raises(ValueError, match="between 0 and 1"), shares.held(share, [busy]):
        pass
