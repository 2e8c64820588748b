"""A compute process of several: one protocol, one answer, one end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from service import broker
from service.messages import catalogue
from service.messages.catalogue import CATALOGUE
from service.messages.failures import FailureKind
from service.messages.measure import MEASURE
from service.settings import Settings
from tests.faults.servers import free_port
from tests.workers.compute.test_compute_process import measure_of
from workers import runtime
from workers.compute import launch
from workers.compute.launch import Processes
from workers.compute.process import ComputeDied, ComputeFailed, ComputeProcess
from workers.schedule.node import Node

pytestmark = pytest.mark.slow

TWO = Processes(per_node=2)


@pytest.fixture(scope="module")
def process() -> Iterator[ComputeProcess]:
    made = ComputeProcess(device="cpu", threads=1, processes=TWO)
    yield made
    made.kill()


def announced(process: ComputeProcess, **how: object) -> int:
    found = process.call(CATALOGUE, catalogue.Request(), **{"timeout_seconds": 120, **how})
    return len(found.announcements)


def ranks(process: ComputeProcess) -> list[int]:
    """The processes that compute, in the order of their start; the launcher is their parent."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return sorted(map(int, children))


def are_gone(pids: list[int]) -> bool:
    """Whether none of these processes runs; one that has ended may wait for its parent's look."""
    return not any(_state(pid) not in ("", "Z") for pid in pids)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


def test_one_of_them_answers_and_all_stay(process: ComputeProcess) -> None:
    assert announced(process)
    found = ranks(process)
    assert len(found) == 2
    assert announced(process)
    assert ranks(process) == found


def test_failure_that_all_share_is_answered_and_all_stay(
    process: ComputeProcess, tmp_path: Path
) -> None:
    assert announced(process)
    found = ranks(process)
    with pytest.raises(ComputeFailed) as failed:
        process.call(MEASURE, measure_of(tmp_path), timeout_seconds=120)
    assert (failed.value.kind, failed.value.last) == (FailureKind.NOT_STORED, False)
    assert announced(process)
    assert ranks(process) == found


@pytest.mark.parametrize("which", [0, 1])
def test_end_of_one_ends_all_and_the_next_request_starts_others(
    process: ComputeProcess, which: int
) -> None:
    assert announced(process)
    found = ranks(process)
    os.kill(found[which], signal.SIGKILL)
    with pytest.raises(ComputeDied):
        announced(process)
    assert process.pid is None
    assert are_gone(found)
    assert announced(process)


def test_nothing_is_left_of_processes_that_do_not_go_on(process: ComputeProcess) -> None:
    assert announced(process)
    found = ranks(process)
    os.kill(found[1], signal.SIGSTOP)
    with pytest.raises(ComputeDied, match="over its time"):
        announced(process, timeout_seconds=1)
    assert are_gone(found)


def test_they_end_with_their_worker() -> None:
    program = (
        "from tests.workers.compute.test_group import TWO, announced, ranks\n"
        "from workers.compute.process import ComputeProcess\n"
        "process = ComputeProcess(device='cpu', threads=1, processes=TWO)\n"
        "announced(process)\n"
        "print(process.pid, *ranks(process), flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None
        found = [int(pid) for pid in worker.stdout.readline().split()]
        assert len(found) == 3
        ends = [os.pidfd_open(pid) for pid in found]
        worker.kill()
    for end in ends:
        _wait_for(end)
    assert are_gone(found)


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """A second machine, which in truth is this one; the settings of both."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    settings = Settings(
        _env_file=None,
        device="cpu",
        threads=1,
        compute_nodes=2,
        compute_endpoint=f"127.0.0.1:{free_port()}",
    )
    made = Node(settings, number=1)
    running = threading.Thread(target=made.run)
    running.start()
    yield settings
    made.stop()
    running.join()


def test_processes_of_two_machines_compute_together_and_start_again(
    process: ComputeProcess, node: Settings
) -> None:
    process.kill()
    own = ComputeProcess(
        device="cpu", threads=1, processes=runtime.processes(node, broker.DELETIONS)
    )
    try:
        assert announced(own)
        (mine,) = ranks(own)
        (theirs,) = set(_computing()) - {mine}
        os.kill(theirs, signal.SIGKILL)
        with pytest.raises(ComputeDied):
            announced(own)
        assert are_gone([mine, theirs])
        assert announced(own)
    finally:
        own.kill()


def test_machine_that_does_not_come_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "MEETING_SECONDS", 2)
    endpoint = "127.0.0.1", free_port()
    own = ComputeProcess(device="cpu", threads=1, processes=Processes(nodes=2, endpoint=endpoint))
    with pytest.raises(ComputeDied, match="exited with code 1"):
        announced(own)
    assert own.pid is None


def _computing() -> list[int]:
    """The compute processes below this one."""
    found, waiting = [], [os.getpid()]
    while waiting:
        pid = waiting.pop()
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            waiting += map(int, children.read_text().split())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        if command.endswith(b"-u\0-m\0workers.compute\0"):  # as torchrun starts it
            found.append(pid)
    return found


def _wait_for(end: int) -> None:
    """Wait until the process of a descriptor has ended."""
    import select

    ended = select.poll()
    ended.register(end, select.POLLIN)
    assert ended.poll(60_000)
    os.close(end)
