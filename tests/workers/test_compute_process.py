"""The compute process: asked, watched, killed, replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from workers.compute.process import ComputeDied, ComputeFailed, ComputeProcess


@pytest.fixture(scope="module")
def process() -> Iterator[ComputeProcess]:
    made = ComputeProcess(device="cpu", threads=1)
    yield made
    made.kill()


def catalogue(process: ComputeProcess, **how) -> list:
    return process.call("catalogue", {}, **{"timeout_seconds": 60, **how})["announcements"]


def test_same_process_answers_again_and_again(process: ComputeProcess) -> None:
    assert catalogue(process)
    first = process.pid
    assert catalogue(process)
    assert process.pid == first


def test_error_of_an_operation_comes_back_with_its_kind(process: ComputeProcess) -> None:
    with pytest.raises(ComputeFailed) as failed:
        process.call("describe", {}, timeout_seconds=60)
    assert failed.value.kind == "KeyError"
    assert catalogue(process)


def test_whatever_the_watch_raises_kills_the_computation(process: ComputeProcess) -> None:
    class Enough(Exception):
        pass

    def watch() -> None:
        raise Enough

    process.kill()  # a start takes longer than the watch's pause
    with pytest.raises(Enough):
        catalogue(process, watch=watch, watch_seconds=0.01)
    assert process.pid is None


def test_process_that_is_killed_is_noticed_and_replaced(process: ComputeProcess) -> None:
    def kill() -> None:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)

    process.kill()
    with pytest.raises(ComputeDied):
        catalogue(process, watch=kill, watch_seconds=0.01)
    assert catalogue(process)


def test_computation_over_its_time_is_stopped(process: ComputeProcess) -> None:
    process.kill()
    with pytest.raises(ComputeDied, match="over its time"):
        catalogue(process, timeout_seconds=0.05)
    assert process.pid is None


def test_unknown_operation_is_refused() -> None:
    """No import path comes from a message."""
    found = subprocess.run(
        [sys.executable, "-m", "workers.compute"],
        input='{"operation": "os", "request": {}}\n',
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.stdout == ""


def test_process_ends_with_its_worker() -> None:
    """Standard input ends when the worker is killed, whatever is being computed."""
    child = subprocess.Popen(
        [sys.executable, "-m", "workers.compute"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(timeout=60) == 0
