"""What is received is overwritten before it is gone, however the upload ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import BinaryIO

import pytest
from starlette.requests import Request
from starlette.types import Message

from models_store import open_store
from models_store.protocols import Upload
from service.api import uploads
from service.errors import TooLarge, Unprocessable

BODY = b"weights " * (uploads.PIECE_BYTES // 4)
SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/",
    "headers": [(b"content-type", b"application/octet-stream")],
}


class Sender:
    """Sends the body in two halves and opens the file after the first, as a thief would."""

    def __init__(self, directory: Path, last: Message) -> None:
        self.directory, self.last = directory, last
        self.opened: BinaryIO | None = None
        self.sent = 0

    async def __call__(self) -> Message:
        self.sent += 1
        if self.sent == 1:
            return {"type": "http.request", "body": BODY, "more_body": True}
        self.opened = next(self.directory.glob("*.part")).open("rb")
        return self.last


def rest_of(
    tmp_path: Path,
    last: Message,
    use: Callable[[Upload], Awaitable[None]],
    *,
    max_bytes: int = 3 * len(BODY),
    leftover_seconds: float = 60.0,
    error: type[BaseException] | None = None,
) -> bytes:
    """What a handle opened during the upload still reads once the upload ended, with ``error``."""
    sender = Sender(tmp_path / "uploads", last)

    async def upload() -> None:
        async with uploads.received(
            Request(SCOPE, sender),
            open_store(tmp_path),
            max_bytes=max_bytes,
            leftover_seconds=leftover_seconds,
        ) as received:
            await use(received)

    with contextlib.nullcontext() if error is None else pytest.raises(error):
        asyncio.run(upload())
    assert list((tmp_path / "uploads").iterdir()) == []
    assert sender.opened is not None
    with sender.opened:
        return sender.opened.read()


async def nothing(_received: Upload) -> None:
    """The body was received; nobody takes the file."""


END = {"type": "http.request", "body": BODY, "more_body": False}


def test_finished_upload_that_nobody_took_is_overwritten(tmp_path: Path) -> None:
    left = rest_of(tmp_path, END, nothing)
    assert len(left) == 2 * len(BODY)
    assert not any(left)


@pytest.mark.parametrize(
    ("last", "limit", "error"),
    [({"type": "http.disconnect"}, 3, Unprocessable), (END, 1, TooLarge)],
    ids=["broken off", "too large"],
)
def test_upload_that_is_not_finished_is_overwritten(
    tmp_path: Path, last: Message, limit: int, error: type[Exception]
) -> None:
    left = rest_of(tmp_path, last, nothing, max_bytes=limit * len(BODY), error=error)
    assert len(left) >= uploads.PIECE_BYTES
    assert not any(left)


def test_upload_whose_task_is_cancelled_is_overwritten(tmp_path: Path) -> None:
    async def cancelled(_received: Upload) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.Event().wait()

    left = rest_of(tmp_path, END, cancelled, error=asyncio.CancelledError)
    assert len(left) == 2 * len(BODY)
    assert not any(left)


def test_upload_that_went_into_the_store_keeps_its_bytes(tmp_path: Path) -> None:
    async def keep(received: Upload) -> None:
        kept.append(received.keep("checkpoints", {}).digest)

    kept: list[str] = []
    rest_of(tmp_path, END, keep)
    with open_store(tmp_path).blobs.open("checkpoints", kept[0]) as stored:
        assert stored.read() == BODY * 2


def test_leftovers_of_killed_uploads_are_overwritten(tmp_path: Path) -> None:
    (tmp_path / "uploads").mkdir()
    old = tmp_path / "uploads" / "old.part"
    old.write_bytes(BODY)
    handle = old.open("rb")
    rest_of(tmp_path, END, nothing, leftover_seconds=0.0)
    with handle:
        assert not any(handle.read())
