"""What a client of the harness makes of a connection that ends without an answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from tests.faults.clients import Clients


class Server(ThreadingHTTPServer):
    """Ends the first connection without an answer, having ``recorded`` the request or not."""

    recorded = False
    asked = 0


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        self.server.asked += 1
        if self.server.asked == 1:
            self.close_connection = True
            return
        self.send_response(202)
        if self.server.recorded:
            self.send_header("Idempotency-Replayed", "true")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@dataclass
class Address:
    """As much of a fleet as a client asks: where the API is."""

    ports: list[int]
    http: httpx.Client
    headers: dict[str, str]


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), _Handler) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.mark.parametrize("recorded", [True, False])
def test_answer_is_lost_only_if_the_request_was_recorded(server: Server, recorded: bool) -> None:
    server.recorded = recorded
    with httpx.Client() as http:
        fleet: Any = Address([server.server_port], http, {})
        clients = Clients(fleet, seed=1)
        answer = clients.send("POST", "/v1/deletion-requests", {}, "a-key", anew=True)
    assert (answer.status_code, server.asked) == (202, 2)
    expected = {"connection lost": 1} | ({"answer lost": 1} if recorded else {})
    assert dict(clients.tally) == expected
