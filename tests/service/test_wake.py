"""Messages to the workers: few, after the fact, and never anybody's trouble."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from celery import Celery

from service import broker, wake
from service.settings import Settings


def _settings(tmp_path: Path, **changes: object) -> Settings:
    return Settings(_env_file=None, state_dir=tmp_path, **changes)  # type: ignore[arg-type]


def test_a_burst_becomes_a_few_messages() -> None:
    sent: list[tuple[str, str]] = []
    first = threading.Event()

    def send(task: str, queue: str) -> None:
        sent.append((task, queue))
        first.set()

    sender = wake.Wake(send)
    for _ in range(1000):
        sender.deletions(7)
    sender.background()
    sender.close()
    assert first.is_set()
    assert sent.count((broker.RUN_BACKGROUND, broker.BACKGROUND)) == 1
    assert 1 <= sent.count((broker.RUN_BATCHES, broker.DELETIONS)) <= 3


def test_what_is_asked_for_while_sending_is_sent_afterwards() -> None:
    sent: list[str] = []
    sending, go_on = threading.Event(), threading.Event()

    def send(_task: str, queue: str) -> None:
        sending.set()
        assert go_on.wait(10)
        sent.append(queue)

    sender = wake.Wake(send)
    sender.deletions()
    assert sending.wait(10)
    sender.deletions()
    go_on.set()
    sender.close()
    assert sent == [broker.DELETIONS, broker.DELETIONS]


def test_a_dead_broker_is_noted_once_and_not_felt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sender = wake.sender(_settings(tmp_path, broker_url="redis://127.0.0.1:1/0"))
    sender.deletions()
    sender.close()
    assert [line.name for line in caplog.records].count("service.wake") == 1


def test_the_embedded_broker_carries_a_message_without_arguments(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    sender = wake.sender(settings)
    sender.deletions()
    sender.close()
    reached = broker.configure(settings)
    app = Celery(broker=reached.url, set_as_current=False)
    app.conf.broker_transport_options = reached.transport_options
    with app.connection() as connection, connection.SimpleQueue(broker.DELETIONS) as queue:
        message = queue.get(timeout=10)
        message.ack()
    assert message.headers["task"] == broker.RUN_BATCHES
    args, kwargs, _ = message.payload
    assert (args, kwargs) == ([], {})
