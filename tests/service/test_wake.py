"""Messages to the workers, over a real Redis and over files; and what happens without a broker."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

import pytest
import redis

from service import broker, wake
from service.settings import Settings


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "broker" / "messages"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.redis
def test_a_wake_lands_in_its_queue_on_redis(tmp_path: Path, redis_url: str) -> None:
    woken = wake.sender(Settings(_env_file=None, state_dir=tmp_path, broker_url=redis_url))
    woken.deletions(7)
    woken.background()
    woken.close()
    assert woken.broker == "reachable"
    client = redis.Redis.from_url(redis_url)
    assert [_task(m) for m in client.lrange("deletions", 0, -1)] == [broker.RUN_BATCHES]
    assert [_task(m) for m in client.lrange("background", 0, -1)] == [broker.RUN_BACKGROUND]
    client.close()


@pytest.mark.redis
def test_messages_on_redis_carry_no_arguments(tmp_path: Path, redis_url: str) -> None:
    woken = wake.sender(Settings(_env_file=None, state_dir=tmp_path, broker_url=redis_url))
    woken.deletions(7)
    woken.close()
    client = redis.Redis.from_url(redis_url, decode_responses=True)
    headers = json.loads(client.lrange("deletions", 0, -1)[0])["headers"]
    client.close()
    assert (headers["argsrepr"], headers["kwargsrepr"]) == ("()", "{}")


def test_without_a_broker_messages_are_files_in_the_state_directory(
    tmp_path: Path, files: Path
) -> None:
    woken = wake.sender(Settings(_env_file=None, state_dir=tmp_path, broker_url=""))
    woken.deletions()
    woken.close()
    assert [_task(path.read_bytes()) for path in files.iterdir()] == [broker.RUN_BATCHES]


def test_a_dead_broker_is_noticed_but_never_felt(tmp_path: Path) -> None:
    complained = _Complaint()
    logging.getLogger("service.wake").addHandler(complained)
    # Port 1 refuses at once.
    settings = Settings(_env_file=None, state_dir=tmp_path, broker_url="redis://127.0.0.1:1/0")
    woken = wake.sender(settings)
    try:
        woken.deletions()
        assert complained.heard.wait(60)
    finally:
        woken.close()
        logging.getLogger("service.wake").removeHandler(complained)
    assert woken.broker == "unreachable"


def test_calls_while_a_message_is_being_sent_become_one_message() -> None:
    sent: list[str] = []
    sending, go_on = threading.Event(), threading.Event()

    def slow_send(task: str, queue: str) -> None:
        sent.append(task)
        sending.set()
        go_on.wait(60)

    woken = wake.Wake(slow_send)
    woken.deletions()
    assert sending.wait(60)
    for _ in range(100):
        woken.deletions()
    go_on.set()
    woken.close()
    assert sent == [broker.RUN_BATCHES, broker.RUN_BATCHES]


def test_redis_hands_a_message_on_only_after_the_longest_batch(tmp_path: Path) -> None:
    settings = Settings(
        _env_file=None, state_dir=tmp_path, broker_url="redis://r", batch_timeout_seconds=600
    )
    assert broker.configure(settings).transport_options["visibility_timeout"] >= 1200


class _Complaint(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.set()


def _task(message: bytes) -> str:
    task: str = json.loads(message)["headers"]["task"]
    return task
