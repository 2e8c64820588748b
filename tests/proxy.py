"""A TCP proxy for tests: what a network between a program and a server may do, done on purpose.

It forwards until it is told otherwise. What it is told applies to connections that are open and
to those that come. PostgreSQL is also understood as far as its COMMIT, without TLS (see
``through``): the answer to one can be lost after the server has committed.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal

from sqlalchemy import URL

_CHUNK = 65_536

#: COMMIT in PostgreSQL's protocol: as a simple query (type, length, text, NUL), and as a statement
#: without a name that is parsed (NUL, text, NUL, no types of parameters).
_COMMITS = (b"Q" + struct.pack("!i", 11) + b"COMMIT\0", b"\0COMMIT\0\0\0")
#: How the server says that it has committed: type, length, tag, NUL.
_COMMITTED = b"C" + struct.pack("!i", 11) + b"COMMIT\0"

Direction = Literal["request", "answer"]


@dataclass(eq=False)
class _Link:
    """One client's connection and the proxy's own to the server."""

    client: socket.socket
    server: socket.socket
    #: Whether its client has sent a COMMIT that the server has not yet confirmed.
    committing: bool = False
    #: Whether an answer to COMMIT was lost on it: nothing that follows arrives either.
    lost: bool = False
    #: Whether the server behind it was left for another one: nothing comes from it any more.
    abandoned: bool = False
    ended: set[Direction] = field(default_factory=set)

    def cut(self) -> None:
        """End both connections by reset, as a failing host or firewall does."""
        for end in (self.client, self.server):
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # Closing alone would not wake the thread that reads from it.
            with suppress(OSError):
                end.shutdown(socket.SHUT_RD)
            with suppress(OSError):
                end.close()


class Proxy:
    """Listens on a free port of this machine and passes on to one server."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._lock = threading.Condition()
        self._links: set[_Link] = set()
        self._delay = 0.0
        self._silent = False
        self._refusing = False
        self._closed = False
        self._answers_to_lose = 0
        self._silently = False
        self._commits_to_lose = 0
        self._breaks = 0
        self._bytes_before_break = 0
        #: Answers to COMMIT, and COMMITs, that were lost so far, and answers of any other protocol.
        self.lost = 0
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take no more connections and end those that are open."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def through(self, url: URL) -> str:
        """The database's URL by way of this proxy; without TLS, so that COMMIT can be seen."""
        made = url.set(host="127.0.0.1", port=self.port).update_query_dict(
            {"sslmode": "disable", "gssencmode": "disable"}
        )
        return made.render_as_string(hide_password=False)

    # What to do with the traffic.

    def forward(self) -> None:
        """Pass everything on again; what was swallowed stays lost."""
        with self._lock:
            self._delay, self._silent, self._refusing = 0.0, False, False
            self._answers_to_lose = self._commits_to_lose = self._breaks = 0
            self._lock.notify_all()

    def delay(self, seconds: float) -> None:
        """Hold back every piece, in both directions, for that long."""
        with self._lock:
            self._delay = seconds

    def swallow(self) -> None:
        """Drop everything in both directions and say nothing: connections stay open."""
        with self._lock:
            self._silent = True

    def refuse(self) -> None:
        """End connections that are open and those that come."""
        with self._lock:
            self._refusing = True
        self.cut()

    def cut(self) -> None:
        """Reset every open connection; new ones are taken."""
        for link in self._open():
            link.cut()

    def fail_over(self, port: int) -> None:
        """Lead new connections to another server; the open ones stay open, and silent for good."""
        with self._lock:
            self._target = (self._target[0], port)
            for link in self._links:
                link.abandoned = True

    def half_close(self) -> None:
        """Tell clients that the server will say no more; what they send still goes through."""
        for link in self._open():
            with suppress(OSError):
                link.client.shutdown(socket.SHUT_WR)

    def lose_answers_to_commit(self, times: int = 1, *, silently: bool = False) -> None:
        """Let the server commit, then lose its answer, with the connection unless ``silently``."""
        with self._lock:
            self._answers_to_lose, self._silently = times, silently

    def break_answers(self, times: int = 1, *, after: int = 0) -> None:
        """Cut the connection in place of passing on what a server of any protocol answers.

        The first time that happens once ``after`` bytes of answers have passed, in whole pieces.
        """
        with self._lock:
            self._breaks, self._bytes_before_break = times, after

    def lose_commits(self, times: int = 1) -> None:
        """Cut the connection in place of passing a COMMIT on: the server rolls back."""
        with self._lock:
            self._commits_to_lose = times

    def await_lost(self, count: int = 1, *, seconds: float = 60.0) -> None:
        """Wait until that many COMMITs or answers to COMMIT have been lost."""
        with self._lock:
            assert self._lock.wait_for(lambda: self.lost >= count, seconds), "nothing was lost"

    # Passing on.

    def _open(self) -> list[_Link]:
        with self._lock:
            return list(self._links)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if self._closed or self._refusing:
                    client.close()
                    continue
            try:
                server = socket.create_connection(self._target, timeout=10)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            link = _Link(client, server)
            with self._lock:
                self._links.add(link)
            for direction in ("request", "answer"):
                threading.Thread(target=self._pump, args=(link, direction), daemon=True).start()

    def _pump(self, link: _Link, direction: Direction) -> None:
        source, sink = (
            (link.client, link.server) if direction == "request" else (link.server, link.client)
        )
        try:
            while piece := source.recv(_CHUNK):
                if self._delay:
                    time.sleep(self._delay)
                if self._is_silent(link) or not self._passes(link, direction, piece):
                    continue
                sink.sendall(piece)
            if not self._is_silent(link):
                with suppress(OSError):
                    sink.shutdown(socket.SHUT_WR)
        except OSError:
            if not self._is_silent(link):
                link.cut()
        finally:
            self._end(link, direction)

    def _is_silent(self, link: _Link) -> bool:
        return self._silent or link.abandoned

    def _passes(self, link: _Link, direction: Direction, piece: bytes) -> bool:
        """Whether the piece goes on; False when it is to be lost."""
        with self._lock:
            if direction == "request" and any(one in piece for one in _COMMITS):
                if self._commits_to_lose:
                    self._commits_to_lose -= 1
                    self._lose(link, "cut")
                    return False
                # It may fail and be answered with ROLLBACK: only what is lost counts.
                link.committing = True
            elif direction == "answer":
                if self._breaks:
                    if self._bytes_before_break <= 0:
                        self._breaks -= 1
                        self._lose(link, "cut")
                        return False
                    self._bytes_before_break -= len(piece)
                if link.lost:
                    return False
                if link.committing and _COMMITTED in piece:
                    link.committing = False
                    if self._answers_to_lose:
                        self._answers_to_lose -= 1
                        link.lost = True
                        self._lose(link, "silence" if self._silently else "cut")
                        return False
        return True

    def _lose(self, link: _Link, how: Literal["cut", "silence"]) -> None:
        if how == "cut":
            link.cut()
        self.lost += 1
        self._lock.notify_all()

    def _end(self, link: _Link, direction: Direction) -> None:
        with self._lock:
            link.ended.add(direction)
            if len(link.ended) == 2:
                self._links.discard(link)
                for end in (link.client, link.server):
                    end.close()


@contextmanager
def to(url: URL, *, port: int = 5432) -> Iterator[Proxy]:
    """A proxy to the server of ``url``, closed in the end."""
    with Proxy(url.host or "127.0.0.1", url.port or port) as made:
        yield made
