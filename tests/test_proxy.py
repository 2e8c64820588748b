"""The proxy does to connections what it says."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress

import psycopg
import pytest
from sqlalchemy import URL, Engine

from tests import proxy


@pytest.fixture
def echo() -> Iterator[int]:
    """Port of a server that says everything back."""
    listener = socket.create_server(("127.0.0.1", 0))

    def talk(client: socket.socket) -> None:
        with client, suppress(ConnectionError):
            while piece := client.recv(1024):
                client.sendall(piece)

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=(client,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield int(listener.getsockname()[1])
    listener.close()


@pytest.fixture
def between(echo: int) -> Iterator[proxy.Proxy]:
    with proxy.Proxy("127.0.0.1", echo) as made:
        yield made


def _client(between: proxy.Proxy) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", between.port), timeout=30)
    made.sendall(b"hello")
    assert made.recv(5) == b"hello"
    return made


def test_swallowed_bytes_stay_lost_and_later_ones_arrive(between: proxy.Proxy) -> None:
    with _client(between) as client:
        between.swallow()
        client.sendall(b"lost")
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.recv(4)
        between.forward()
        client.settimeout(30)
        client.sendall(b"again")
        assert client.recv(5) == b"again"


def test_delayed_bytes_arrive(between: proxy.Proxy) -> None:
    with _client(between) as client:
        between.delay(0.05)
        client.sendall(b"late")
        assert client.recv(4) == b"late"


def test_half_closed_connection_still_carries_requests(between: proxy.Proxy) -> None:
    with _client(between) as client:
        between.half_close()
        assert client.recv(1) == b""
        client.sendall(b"still sent")


def test_failing_over_leaves_open_connections_silent_whatever_becomes_of_their_server(
    between: proxy.Proxy,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as second, _client(between) as client:
        between.fail_over(second.getsockname()[1])
        client.sendall(b"lost")
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.recv(4)
        with socket.create_connection(("127.0.0.1", between.port), timeout=30) as later:
            server, _ = second.accept()
            server.sendall(b"welcome")
            assert later.recv(7) == b"welcome"
            server.close()
            assert later.recv(1) == b""


def test_a_server_that_dies_behind_silence_is_not_heard_of() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with proxy.Proxy("127.0.0.1", listener.getsockname()[1]) as between:
        client = socket.create_connection(("127.0.0.1", between.port), timeout=30)
        server, _ = listener.accept()
        server.sendall(b"hello")
        assert client.recv(5) == b"hello"
        between.swallow()
        _reset(server)
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.recv(1)
        between.forward()
        client.settimeout(30)
        with suppress(ConnectionError):
            client.sendall(b"is anybody there")
            assert client.recv(1) == b""
        client.close()
    listener.close()


def _reset(server: socket.socket) -> None:
    """Reset the connection, as a killed process with unread input does."""
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    server.close()


def test_cut_connections_end_and_refused_ones_never_begin(between: proxy.Proxy) -> None:
    with _client(between) as client:
        between.cut()
        assert _ended(client)
    with _client(between) as client:
        between.refuse()
        assert _ended(client)
        with socket.create_connection(("127.0.0.1", between.port), timeout=30) as refused:
            assert _ended(refused)


def _ended(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionError:  # ended by reset
        return True


@pytest.mark.postgres
@pytest.mark.parametrize("lost", ["answer", "commit"])
def test_lost_commit_is_done_exactly_if_it_reached_the_server(
    postgres_url: URL, postgres_database: Engine, lost: str
) -> None:
    with proxy.to(postgres_url) as between:
        through = between.through(postgres_url).replace("postgresql+psycopg", "postgresql")
        connection = psycopg.connect(through)
        connection.execute(
            "INSERT INTO leases (key, owner, until, fence) VALUES ('k', 'w', now(), 1)"
        )
        if lost == "answer":
            between.lose_answers_to_commit()
        else:
            between.lose_commits()
        with pytest.raises(psycopg.OperationalError):
            connection.commit()
        connection.close()
        between.await_lost()
    with postgres_database.connect() as connection:
        found = connection.exec_driver_sql("SELECT count(*) FROM leases").scalar_one()
    assert found == (1 if lost == "answer" else 0)


@pytest.mark.postgres
def test_a_commit_that_fails_uses_up_no_loss(postgres_url: URL, postgres_database: Engine) -> None:
    with proxy.to(postgres_url) as between:
        through = between.through(postgres_url).replace("postgresql+psycopg", "postgresql")
        with psycopg.connect(through) as failing, psycopg.connect(through) as other:
            with pytest.raises(psycopg.errors.UndefinedTable):
                failing.execute("SELECT * FROM no_such_table")
            other.execute("SELECT 1")
            between.lose_answers_to_commit()
            failing.commit()  # answered with ROLLBACK
            with pytest.raises(psycopg.OperationalError):
                other.commit()
        between.await_lost(seconds=5)
