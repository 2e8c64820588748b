"""Lanes: woken by messages or by themselves, one thing at a time, and hard to stop by accident."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from service import broker, wake
from service.ledger.database.states import RequestStatus
from service.settings import Settings
from tests.workers.place import Place
from workers.embedded import serve
from workers.schedule.lanes import DELETIONS, Lane, make

DEADLINE_SECONDS = 60


def until(condition: Callable[[], bool], what: str) -> None:
    """Poll a condition; the deadline is for a hung test only."""
    end = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen"
        time.sleep(0.05)


def test_lane_does_all_that_is_due(town: Place) -> None:
    request = town.ask(town.training_rows()[0])
    Lane(town.runtime, DELETIONS).run()
    assert town.request(request).status == RequestStatus.COMPLETED


@pytest.mark.parametrize("error", [RuntimeError("broken"), OSError(28, "No space left")])
def test_fault_of_one_recipe_does_not_keep_the_others_from_their_work(
    town: Place, error: Exception
) -> None:
    def broken(_runtime: object) -> None:
        raise error

    request = town.ask(town.training_rows()[0])
    Lane(town.runtime, (broken, *DELETIONS)).run()
    assert town.request(request).status == RequestStatus.COMPLETED


def test_database_that_does_not_answer_is_waited_for(town: Place) -> None:
    away = iter([True, False])
    ran: list[str] = []

    def asks(_runtime: object) -> None:
        ran.append("asked")
        if next(away):
            raise OperationalError("select", {}, Exception("gone"))

    lane = Lane(town.runtime, (asks, lambda _runtime: ran.append("second")))
    lane.run()
    assert ran == ["asked"]
    lane.run()
    assert ran == ["asked", "asked", "second"]


def test_call_that_comes_while_the_lane_works_makes_it_look_once_more(town: Place) -> None:
    entered, go_on = threading.Event(), threading.Event()
    rounds: list[int] = []

    def recipe(_runtime: object) -> None:
        rounds.append(1)
        entered.set()
        go_on.wait(DEADLINE_SECONDS)

    lane = Lane(town.runtime, (recipe,))
    working = threading.Thread(target=lane.run)
    working.start()
    entered.wait(DEADLINE_SECONDS)
    for _ in range(5):
        lane.run()  # returns at once: somebody is at it
    go_on.set()
    working.join(DEADLINE_SECONDS)
    assert len(rounds) == 2


def test_lane_by_precedence_begins_again_after_each_that_did_something(town: Place) -> None:
    ran: list[str] = []
    batches = iter([False, True, False, False])

    def first(_runtime: object) -> bool:
        ran.append("batches")
        return next(batches)

    runs = iter([True, False])

    def second(_runtime: object) -> bool:
        ran.append("a run")
        return next(runs)

    Lane(town.runtime, (first, second), by_precedence=True).run()
    assert ran == ["batches", "a run", "batches", "batches", "a run"]


def test_stopped_lane_begins_nothing(town: Place) -> None:
    request = town.ask(town.training_rows()[0])
    town.runtime.stop.set()
    Lane(town.runtime, DELETIONS).run()
    assert town.request(request).status == RequestStatus.ACCEPTED


@pytest.mark.parametrize("name", list(broker.QUEUES))
def test_running_a_lane_again_changes_nothing(town: Place, name: str) -> None:
    """A message that comes twice, or late, finds nothing to do."""
    town.ask(town.training_rows()[0])
    for each in broker.QUEUES:
        make(each, town.runtime).run()
    before = [(version.id, version.status) for version in town.versions()], town.forgotten()
    for _ in range(2):
        make(name, town.runtime).run()
    after = [(version.id, version.status) for version in town.versions()], town.forgotten()
    assert after == before


@contextmanager
def running(settings: Settings, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A real Celery worker, by the embedded form's own command and environment."""
    program = serve.programs(settings, host="127.0.0.1", port=1, processes=1)[0]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *program.command[1:]],
            env={**os.environ, **serve.environment(settings)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        until(lambda: b" ready." in log.read_bytes() or process.poll() is not None, "worker start")
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        process.terminate()
        process.wait(DEADLINE_SECONDS)


@pytest.fixture
def rubbish(town: Place) -> Path:
    """Files in the embedded broker, there before the worker, that are no messages."""
    folder = town.settings.state_dir / "broker"
    _litter(folder)
    return folder


@pytest.fixture
def worker(town: Place, tmp_path: Path) -> Iterator[Settings]:
    """A worker that looks on its own once at the start, then once an hour."""
    settings = town.settings.model_copy(update={"poll_seconds": 3600.0, "grace_seconds": 1.0})
    with running(settings, tmp_path / "worker.log"):
        yield settings


@pytest.mark.slow
def test_message_wakes_a_real_worker_and_more_of_the_same_change_nothing(
    town: Place, worker: Settings
) -> None:
    rows = town.training_rows()[:2]
    first = town.ask(rows[0])
    sender = wake.sender(worker)
    sender.deletions()
    until(lambda: town.request(first).status == RequestStatus.COMPLETED, "the first deletion")
    second = town.ask(rows[1])
    for _ in range(3):
        for queue, task in broker.QUEUES.items():
            sender._send(task, queue)
    until(lambda: town.request(second).status == RequestStatus.COMPLETED, "the second deletion")
    sender.close()
    messages = worker.state_dir / "broker" / "messages"
    until(lambda: not list(messages.iterdir()), "reading every message")
    assert town.forgotten() == rows
    assert [version.number for version in town.versions()] == [1, 2, 3]


@pytest.mark.slow
def test_files_that_are_no_messages_neither_keep_a_worker_from_starting_nor_end_it(
    town: Place, rubbish: Path, worker: Settings
) -> None:
    rows = town.training_rows()[:3]
    messages = rubbish / "messages"
    sender = wake.sender(worker)
    for row in rows:
        _litter(rubbish)
        request = town.ask(row)
        sender._send(broker.RUN_BATCHES, broker.DELETIONS)
        until(lambda: not list(messages.iterdir()), "reading every message")
        until(
            lambda request=request: town.request(request).status == RequestStatus.COMPLETED,
            "the deletion",
        )
    sender.close()


def _litter(folder: Path) -> None:
    """What a full disk or a power cut leaves in the embedded broker."""
    for kind in ("messages", "control"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for queue in broker.QUEUES:
        for number, content in enumerate((b"", b'{"body": "W1t', b"null")):
            (folder / "messages" / f"{number}_0.{queue}.msg").write_bytes(content)
        (folder / "control" / f"{queue}.exchange").write_bytes(b"")
    (folder / "control" / "celery.pidbox.exchange").write_bytes(b"[[")
