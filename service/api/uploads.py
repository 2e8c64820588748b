"""Uploads: streamed to the store's upload area, never held in memory."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence

import anyio
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from models_store import Store, errors
from models_store.protocols import Upload
from service.errors import TooLarge, Unavailable, Unprocessable, UnsupportedMediaType

MEDIA_TYPES = ("application/octet-stream", "application/vnd.safetensors")

#: Bytes gathered before they are written: one call to a thread per piece, not per packet.
PIECE_BYTES = 1 << 20


@contextlib.asynccontextmanager
async def received(
    request: Request,
    store: Store,
    *,
    max_bytes: int,
    leftover_seconds: float,
    media_types: Sequence[str] = MEDIA_TYPES,
    what: str = "the safetensors file itself",
) -> AsyncIterator[Upload]:
    """Receive the request's body for the block, and destroy at its end what was not stored.

    This holds whether the upload was refused, was interrupted or went into the store.
    """
    _check_headers(request, max_bytes, media_types, what)
    with _writing():
        upload = await run_in_threadpool(store.receive, leftover_seconds=leftover_seconds)
    try:
        with _writing():
            await _write(request, upload, max_bytes)
        yield upload
    finally:
        # A client that disconnects cancels this task: what was received must still be destroyed.
        with anyio.CancelScope(shield=True):
            await run_in_threadpool(upload.discard)


def _check_headers(request: Request, max_bytes: int, media_types: Sequence[str], what: str) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in media_types:
        raise UnsupportedMediaType(f"send {what} as the body, as {' or '.join(media_types)}")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise _too_large(max_bytes)


async def _write(request: Request, upload: Upload, max_bytes: int) -> None:
    piece, total = bytearray(), 0
    try:
        async for packet in request.stream():
            total += len(packet)
            if total > max_bytes:
                raise _too_large(max_bytes)
            piece += packet
            if len(piece) >= PIECE_BYTES:
                await run_in_threadpool(upload.write, bytes(piece))
                piece.clear()
    except ClientDisconnect:
        raise Unprocessable("the upload broke off; send it again") from None
    await run_in_threadpool(upload.write, bytes(piece))


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except errors.Unavailable as error:
        raise Unavailable(
            "the store cannot take the upload now; free its disk and try again",
            retry_after_seconds=60,
        ) from error


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(
        f"an upload may have {max_bytes} bytes; of a checkpoint store the weights alone, without "
        "optimiser state"
    )
