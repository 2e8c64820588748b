"""Clients that hang up in the middle of a request, over real sockets."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import uvicorn
from sqlalchemy import Engine

from service.ledger.registry import keys
from service.main import create_app
from service.settings import Settings

URL = "/v1/deletion-requests"
BODY = b'{"dataset": "faces", "record_ids": ["'

#: As whoever attacks would open; few at a time, because a process may have few files open.
HANGING_UP, AT_ONCE = 5000, 200


@dataclass
class Server:
    port: int
    secret: str

    def begin(self, key: str) -> socket.socket:
        """A connection on which half of a request was sent."""
        made = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        head = (
            f"POST {URL} HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {key}\r\n"
            "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
        )
        made.sendall(head.encode() + BODY)
        return made


@pytest.fixture
def server(sqlite_database: Engine, tmp_path: Path) -> Iterator[Server]:
    url = sqlite_database.url.render_as_string()
    app = create_app(Settings(_env_file=None, state_dir=tmp_path, database_url=url))
    with app.state.sessions() as session:
        _, secret = keys.create(session, "test", ["admin"], actor="cli")
        session.commit()
    config = uvicorn.Config(app, port=0, log_level="warning", log_config=None)
    with _running(uvicorn.Server(config)) as port:
        yield Server(port, secret)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["no key at all", "a made-up key", "another made-up key each"])
def test_thousands_that_hang_up_with_a_wrong_key_leave_no_error_and_block_nobody(
    kind: str, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    shown = {
        "no key at all": lambda _number: "nonsense",
        "a made-up key": lambda _number: _made_up(server.secret, 0),
        "another made-up key each": lambda number: _made_up(server.secret, number),
    }[kind]
    answered = 0
    with (
        ThreadPoolExecutor(1) as attacker,
        httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=10) as honest,
    ):
        attack = attacker.submit(_hang_up, server, shown)
        while not attack.done():
            answer = honest.get("/v1/audit/events", headers=_bearer(server.secret))
            answered += answer.status_code == 200
            assert answer.status_code == 200
        assert attack.result() == HANGING_UP
    assert answered > 0
    assert [line.getMessage() for line in caplog.records if line.levelno >= logging.ERROR] == []


def test_a_wrong_key_is_refused_before_the_body_came(server: Server) -> None:
    for wrong in ("nonsense", _made_up(server.secret, 0), server.secret[:-1] + "x"):
        with server.begin(wrong) as connection:
            assert connection.recv(12) == b"HTTP/1.1 401"


def test_hanging_up_with_a_right_key_is_no_error(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(20):
        server.begin(server.secret).close()
    _until(lambda: sum("499" in line.getMessage() for line in caplog.records) == 20)
    assert [line.getMessage() for line in caplog.records if line.levelno >= logging.ERROR] == []


def _hang_up(server: Server, shown: Callable[[int], str]) -> int:
    done = 0
    while done < HANGING_UP:
        open_ones = [server.begin(shown(done + number)) for number in range(AT_ONCE)]
        for connection in open_ones:
            connection.close()
        done += AT_ONCE
    return done


def _made_up(secret: str, number: int) -> str:
    """A key of the right form whose id nobody has."""
    start, key_id, rest = secret.split("_", 2)
    return f"{start}_{number:0{len(key_id)}d}_{rest}"


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@contextmanager
def _running(server: uvicorn.Server) -> Iterator[int]:
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        _until(lambda: server.started)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
