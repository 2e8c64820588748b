"""A real HTTP server that receives webhooks, and answers as a test tells it."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Received:
    """One request, as it arrived."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.body)
        return event

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


@dataclass
class Receiver:
    """What arrived; ``answer`` returns status and headers, and may keep the sender waiting."""

    port: int = 0
    scheme: str = "http"
    received: list[Received] = field(default_factory=list)
    answer: Callable[[Received], tuple[int, Mapping[str, str]]] = lambda _: (204, {})
    #: Set when a sender hung up before it was answered.
    hung_up: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/hooks?of=test"

    @property
    def ids(self) -> list[str]:
        return [one.id for one in self.received]

    @property
    def requests(self) -> list[str]:
        return [one.event["data"]["deletion_request"] for one in self.received]

    def answers(self, *statuses: int, **headers: str) -> None:
        """Give these statuses in turn, then 204."""
        left = list(statuses)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answer = lambda _: (left.pop(0), named) if left else (204, {})


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


@contextmanager
def running(tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """A receiver on a free port of 127.0.0.1."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            got = Received(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
            receiver.received.append(got)
            status, headers = receiver.answer(got)
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                # A body without an end: whoever reads it waits for ever.
                self.wfile.write(b"x" * 1000)
                self.wfile.flush()
            except OSError:
                receiver.hung_up.set()

        def log_message(self, *_: Any) -> None:
            pass

    server = _Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        receiver.scheme = "https"
    receiver.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
