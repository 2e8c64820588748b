"""Take the steps of flows with ``httpx``: one driver that waits, and one that awaits."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import httpx

from .answers import Page
from .calls import Call
from .flows import FILE, Flow, Pause, Send, Work, call
from .retries import Retries

T = TypeVar("T")
#: Bytes of a file that are read at once to be sent.
PIECE_BYTES = 1 << 18


class Driver:
    """Takes steps on the calling thread."""

    def __init__(self, http: httpx.Client, retries: Retries) -> None:
        self._http = http
        self.retries = retries

    def run(self, flow: Flow[T]) -> T:
        """Take every step of a flow and return its result."""
        try:
            step = next(flow)
            while True:
                try:
                    result = self._take(step)
                except httpx.TransportError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(result)
        except StopIteration as ended:
            return ended.value  # type: ignore[no-any-return]
        finally:
            flow.close()

    def pause(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def _take(self, step: Send | Pause | Work) -> Any:
        if isinstance(step, Pause):
            self.pause(step.seconds)
            return None
        if isinstance(step, Work):
            return step.function()
        return self._send(step)

    def _send(self, step: Send) -> httpx.Response:
        payload = step.call.payload
        content = _pieces(payload) if isinstance(payload, Path) else payload
        request = _request(self._http, step, payload, content)
        response = self._http.send(request, stream=True)
        try:
            if step.sink is None or response.status_code not in FILE:
                response.read()
            else:
                step.sink.begin(response)
                for piece in response.iter_bytes():
                    step.sink.write(piece)
        finally:
            response.close()
        return response


class AsyncDriver:
    """Takes steps on an event loop, asyncio's or trio's."""

    def __init__(self, http: httpx.AsyncClient, retries: Retries) -> None:
        self._http = http
        self.retries = retries

    async def run(self, flow: Flow[T]) -> T:
        """Take every step of a flow and return its result."""
        try:
            step = next(flow)
            while True:
                try:
                    result = await self._take(step)
                except httpx.TransportError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(result)
        except StopIteration as ended:
            return ended.value  # type: ignore[no-any-return]
        finally:
            flow.close()

    async def pause(self, seconds: float) -> None:
        """Wait."""
        await anyio.sleep(seconds)

    async def _take(self, step: Send | Pause | Work) -> Any:
        if isinstance(step, Pause):
            await self.pause(step.seconds)
            return None
        if isinstance(step, Work):
            return await anyio.to_thread.run_sync(step.function)
        return await self._send(step)

    async def _send(self, step: Send) -> httpx.Response:
        payload = step.call.payload
        content = _pieces_async(payload) if isinstance(payload, Path) else payload
        request = _request(self._http, step, payload, content)
        response = await self._http.send(request, stream=True)
        try:
            if step.sink is None or response.status_code not in FILE:
                await response.aread()
            else:
                step.sink.begin(response)
                async for piece in response.aiter_bytes():
                    step.sink.write(piece)
        finally:
            await response.aclose()
        return response


class Noun:
    """Calls about one noun."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def _call(self, what: Call[T]) -> T:
        return self._driver.run(call(what, self._driver.retries))

    def _each(self, what: Call[Page[T]]) -> Iterator[T]:
        cursor: str | None = None
        while True:
            page = self._call(what.with_query(cursor=cursor))
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return


class AsyncNoun:
    """Calls about one noun, to be awaited."""

    def __init__(self, driver: AsyncDriver) -> None:
        self._driver = driver

    async def _call(self, what: Call[T]) -> T:
        return await self._driver.run(call(what, self._driver.retries))

    async def _each(self, what: Call[Page[T]]) -> AsyncIterator[T]:
        cursor: str | None = None
        while True:
            page = await self._call(what.with_query(cursor=cursor))
            for item in page.items:
                yield item
            cursor = page.next_cursor
            if cursor is None:
                return


def _request(
    http: httpx.Client | httpx.AsyncClient, step: Send, payload: bytes | Path | None, content: Any
) -> httpx.Request:
    what = step.call
    headers = dict(step.headers)
    if payload is not None:
        headers["Content-Type"] = what.media_type
    if isinstance(payload, Path):
        headers["Content-Length"] = str(payload.stat().st_size)
    if what.idempotency_key is not None:
        headers["Idempotency-Key"] = what.idempotency_key
    return http.build_request(
        what.method, what.url, params=what.parameters, headers=headers, content=content
    )


def _pieces(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while piece := opened.read(PIECE_BYTES):
            yield piece


async def _pieces_async(file: Path) -> AsyncIterator[bytes]:
    async with await anyio.open_file(file, "rb") as opened:
        while piece := await opened.read(PIECE_BYTES):
            yield piece
