"""Messages as files: whole ones arrive, everything else is removed and forgotten."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from queue import Empty

import pytest
from kombu import Connection

from service import broker
from service.settings import Settings

QUEUE = broker.DELETIONS

#: What a full disk, a power cut or a foreign program leaves behind.
NO_MESSAGES = {
    "empty": b"",
    "half a message": b'{"body": "W1tdLCB7fSwge31d", "headers": {"ta',
    "no JSON": b"\x00" * 4096,
    "no text": b"\xff\xfe\xfd",
    "null": b"null",
    "a list": b"[1, 2]",
    "a text": b'"message"',
    "no properties": b"{}",
    "properties of another kind": b'{"properties": 3}',
    "no delivery tag": b'{"properties": {}}',
    "nested without end": b"[" * 100_000,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "broker" / "messages"


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    reached = broker.configure(Settings(_env_file=None, state_dir=tmp_path))
    with Connection(reached.url, transport_options=reached.transport_options) as made:
        yield made


@pytest.mark.parametrize("content", NO_MESSAGES.values(), ids=NO_MESSAGES)
def test_a_file_that_is_no_message_is_removed_and_the_next_one_arrives(
    content: bytes, connection: Connection, folder: Path
) -> None:
    (folder / f"0_first.{QUEUE}.msg").write_bytes(content)
    with connection.SimpleQueue(QUEUE) as queue:
        queue.put({"look": "there"})
        message = queue.get(timeout=10)
        message.ack()
        assert message.payload == {"look": "there"}
        (folder / f"9_last.{QUEUE}.msg").write_bytes(content)
        with pytest.raises(Empty):
            queue.get(block=False)
    assert list(folder.iterdir()) == []
    assert list((folder.parent / "processed").iterdir()) == []


@pytest.mark.parametrize("content", NO_MESSAGES.values(), ids=NO_MESSAGES)
def test_damaged_files_of_exchanges_are_not_even_read(
    content: bytes, connection: Connection, folder: Path
) -> None:
    control = folder.parent / "control"
    control.mkdir()
    for name in (QUEUE, "celery.pidbox", "celeryev", "reply.celery.pidbox"):
        (control / f"{name}.exchange").write_bytes(content)
    with connection.SimpleQueue(QUEUE) as queue:
        queue.put(1)
        assert queue.get(timeout=10).payload == 1


def test_messages_arrive_in_the_order_in_which_they_were_put(connection: Connection) -> None:
    with connection.SimpleQueue(QUEUE) as queue:
        for number in range(20):
            queue.put(number)
        assert [queue.get(timeout=10).payload for _ in range(20)] == list(range(20))


def test_a_message_appears_under_its_name_only_when_it_is_whole(
    connection: Connection, folder: Path
) -> None:
    with connection.SimpleQueue(QUEUE) as queue:
        queue.put("x")
        (written,) = folder.iterdir()
        assert json.loads(written.read_text())["properties"]["delivery_tag"]
        # What a writer that died left is not taken for one.
        written.rename(written.with_suffix(".tmp"))
        with pytest.raises(Empty):
            queue.get(block=False)


def test_messages_of_another_queue_are_left_alone(connection: Connection, folder: Path) -> None:
    with connection.SimpleQueue(broker.BACKGROUND) as other, connection.SimpleQueue(QUEUE) as mine:
        other.put("x")
        with pytest.raises(Empty):
            mine.get(block=False)
        assert other.get(timeout=10).payload == "x"
