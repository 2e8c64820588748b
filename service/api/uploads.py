"""Uploads: streamed to a file in the store, never held in memory."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import anyio
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from models_store import files
from service.errors import TooLarge, Unavailable, Unprocessable, UnsupportedMediaType

MEDIA_TYPES = ("application/octet-stream", "application/vnd.safetensors")

#: Bytes gathered before they are written: one hop to a thread per piece, not per packet.
PIECE_BYTES = 1 << 20


@contextlib.asynccontextmanager
async def received(
    request: Request,
    store: Path,
    *,
    max_bytes: int,
    leftover_seconds: float,
    media_types: Sequence[str] = MEDIA_TYPES,
    what: str = "the safetensors file itself",
) -> AsyncIterator[Path]:
    """The request's body as a file in the store; afterwards it is overwritten unless it was moved.

    Whether the upload was refused, broke off or went into the store.
    """
    _check_headers(request, max_bytes, media_types, what)
    file = store / "uploads" / f"{uuid.uuid4().hex}.part"
    try:
        with _writing():
            await run_in_threadpool(_prepare, file.parent, leftover_seconds)
            with file.open("xb") as stream:  # opening is quick; writing is not
                await _write(request, stream, max_bytes)
        yield file
    finally:
        # A caller who hung up cancels this task: what was received is overwritten all the same.
        with anyio.CancelScope(shield=True):
            await run_in_threadpool(_discard, file)


def _check_headers(request: Request, max_bytes: int, media_types: Sequence[str], what: str) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in media_types:
        raise UnsupportedMediaType(f"send {what} as the body, as {' or '.join(media_types)}")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise _too_large(max_bytes)


async def _write(request: Request, stream: BinaryIO, max_bytes: int) -> None:
    piece, total = bytearray(), 0
    try:
        async for packet in request.stream():
            total += len(packet)
            if total > max_bytes:
                raise _too_large(max_bytes)
            piece += packet
            if len(piece) >= PIECE_BYTES:
                await run_in_threadpool(stream.write, bytes(piece))
                piece.clear()
    except ClientDisconnect:
        raise Unprocessable("the upload broke off; send it again") from None
    await run_in_threadpool(stream.write, bytes(piece))


def _prepare(directory: Path, leftover_seconds: float) -> None:
    """Make the directory and remove what killed processes left in it."""
    directory.mkdir(parents=True, exist_ok=True)
    for file in directory.glob("*.part"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - file.stat().st_mtime > leftover_seconds:
                files.discard(file)


def _discard(file: Path) -> None:
    with contextlib.suppress(OSError):  # left for the next upload
        files.discard(file)


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(
            "the store cannot take the upload now; free its disk and try again",
            retry_after_seconds=60,
        ) from error


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(
        f"an upload may have {max_bytes} bytes; of a checkpoint store the weights alone, without "
        "optimiser state"
    )
