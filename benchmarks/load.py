"""A small HTTP client that spends as little as it can, so that it measures the server."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import SplitResult, urlsplit


def post_all(
    urls: Sequence[str],
    path: str,
    api_key: str,
    bodies: Iterator[dict[str, Any]],
    *,
    connections: int,
) -> tuple[float, list[float], dict[int, int]]:
    """POST every body over keep-alive connections, shared out among the servers.

    Returns (seconds in all, seconds each, statuses).
    """
    return asyncio.run(_post_all(urls, path, api_key, bodies, connections))


async def _post_all(
    urls: Sequence[str],
    path: str,
    api_key: str,
    bodies: Iterator[dict[str, Any]],
    connections: int,
) -> tuple[float, list[float], dict[int, int]]:
    taken: list[float] = []
    statuses: dict[int, int] = {}

    async def send(address: SplitResult) -> None:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        for body in bodies:  # shared: each connection takes the next one
            content = json.dumps(body).encode()
            writer.write(
                f"POST {path} HTTP/1.1\r\nHost: {address.netloc}\r\n"
                f"Authorization: Bearer {api_key}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(content)}\r\n\r\n".encode()
                + content
            )
            began = time.perf_counter()
            status = await _read_answer(reader)
            taken.append(time.perf_counter() - began)
            statuses[status] = statuses.get(status, 0) + 1
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(send(urlsplit(urls[n % len(urls)])) for n in range(connections)))
    return time.perf_counter() - began, taken, statuses


async def _read_answer(reader: asyncio.StreamReader) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    length = next(int(x.split(":")[1]) for x in lines if x.lower().startswith("content-length:"))
    await reader.readexactly(length)
    return int(lines[0].split(" ")[1])
