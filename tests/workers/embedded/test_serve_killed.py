"""The embedded form, killed: its programs end with it, and one instance serves a directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

from service.ledger.database import db
from service.ledger.database.tables import Capability
from tests.faults.servers import free_port

pytestmark = pytest.mark.slow

DEADLINE_SECONDS = 120


class Instance:
    """A running ``unlearn serve``."""

    def __init__(self, folder: Path, log: Path) -> None:
        self.port = free_port()
        self._log = log
        environment = {
            **os.environ,
            "UNLEARN_STATE_DIR": str(folder / "state"),
            "UNLEARN_DEVICE": "cpu",
            "UNLEARN_THREADS": "1",
            "UNLEARN_GRACE_SECONDS": "1",
        }
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "workers.cli", "serve", "--port", str(self.port)],
                cwd=folder,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def ready(self) -> bool:
        """Whether database and worker are there."""
        assert self.process.poll() is None, self.said()
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=10).status_code == 200
        except httpx.TransportError:
            return False

    def programs(self) -> dict[int, str]:
        """Command lines of every process below it, by process id."""
        return {pid: _command(pid) for pid in _below(self.process.pid)}

    def said(self) -> str:
        return self._log.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Instance]]:
    """Starts instances on one state directory; whatever is left of them is ended afterwards."""
    made: list[Instance] = []

    def begin() -> Instance:
        made.append(Instance(tmp_path, tmp_path / f"serve-{len(made)}.log"))
        return made[-1]

    yield begin
    for instance in made:
        left = instance.programs()
        if instance.process.poll() is None:
            instance.process.terminate()
            instance.process.wait(DEADLINE_SECONDS)
        for pid in left:
            if _lives(pid):
                os.kill(pid, signal.SIGKILL)


def test_it_is_ready_once_the_worker_has_said_what_it_can_do(
    start: Callable[[], Instance], tmp_path: Path
) -> None:
    instance = start()
    until(instance.ready, instance.said)
    engine = db.engine(f"sqlite:///{tmp_path}/state/ledger.db")
    with db.session_factory(engine)() as session:
        announced = set(session.scalars(select(Capability.kind)))
    engine.dispose()
    assert {"method", "architecture", "recipe"} <= announced


def test_programs_end_with_a_killed_parent_and_the_next_one_starts(
    start: Callable[[], Instance],
) -> None:
    first = start()
    until(first.ready, first.said)
    until(lambda: _has(first, "workers.compute"), first.said)
    programs = first.programs()
    for name in ("uvicorn", "worker", "beat", "workers.compute"):
        assert _has(first, name), programs
    first.kill()
    second = start()  # at once, as a service manager does
    until(lambda: not any(map(_lives, programs)), second.said)
    until(second.ready, second.said)


def test_a_second_instance_is_refused_while_the_first_or_an_orphan_of_it_lives(
    start: Callable[[], Instance],
) -> None:
    first = start()
    until(first.ready, first.said)
    refused = start()
    assert refused.process.wait(DEADLINE_SECONDS) == 1
    assert "already being served" in refused.said()
    assert len(refused.said().splitlines()) == 1
    # A process that is stopped cannot end before it goes on.
    orphan = next(pid for pid, command in first.programs().items() if " beat " in command)
    os.kill(orphan, signal.SIGSTOP)
    first.kill()
    refused = start()
    assert refused.process.wait(DEADLINE_SECONDS) == 1
    assert "already being served" in refused.said()
    os.kill(orphan, signal.SIGCONT)
    until(lambda: not _lives(orphan), first.said)
    third = start()
    until(third.ready, third.said)


def _has(instance: Instance, words: str) -> bool:
    return any(words in command for command in instance.programs().values())


def _below(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:
            continue
        for child in children:
            yield child
            yield from _below(child)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition: Callable[[], bool], said: Callable[[], str]) -> None:
    end = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < end, said()
        time.sleep(0.05)
