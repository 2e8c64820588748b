"""The whole way over HTTP, each step of it computed by two processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_demo_runs_on_two_processes_of_which_none_is_left(tmp_path: Path) -> None:
    home = tmp_path / "demo"
    done = subprocess.run(
        [sys.executable, "-m", "workers.cli", "demo", "--out", str(home)],
        env={
            **os.environ,
            "COLUMNS": "200",
            "UNLEARN_DEVICE": "cpu",
            "UNLEARN_COMPUTE_PROCESSES": "2",
        },
        capture_output=True,
        text=True,
        timeout=800,
    )
    log = (home / "service.log").read_text()
    assert done.returncode == 0, done.stdout + done.stderr + log
    assert "Signed audit report" in done.stdout
    # In both lanes that compute.
    for rank in (1, 2):
        assert log.count(f"process {rank} of 2 computes on cpu") >= 2
    assert not any(str(home).encode() in one for one in _environments())


def _environments() -> Iterator[bytes]:
    """Environments of the processes that run now."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            yield path.read_bytes()
