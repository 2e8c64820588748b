"""A PostgreSQL and a Redis of the harness' own, on free ports, to be broken at will.

Nothing here ever touches a server that it did not start.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
import redis

from tests.faults import disks
from tests.faults.disks import Disk

START_SECONDS = 60
#: What stays of runs: the progress of long ones, and the logs of those in which something broke.
KEPT = Path(".faults")


class NotInstalled(Exception):
    """The programs of a server are not on this machine."""


#: Below those that Linux gives to connections: one of them could otherwise take the port of a
#: program while it is down.
_PORTS = range(15_000, 32_000)
#: Far apart for processes that begin at the same time.
_next_port = itertools.count(97 * os.getpid())


def free_port() -> int:
    """Return a port that nobody listens on, each time another one."""
    for number in itertools.islice(_next_port, len(_PORTS)):
        port = _PORTS[number % len(_PORTS)]
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("no port is free")


def until(condition: Callable[[], bool], what: str, *, seconds: float = START_SECONDS) -> None:
    """Poll a condition until it holds; ``AssertionError`` at the deadline."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.05)


@contextmanager
def home(*, keep: bool = False) -> Iterator[Path]:
    """A directory for one run, which a PostgreSQL of another user can enter."""
    made = Path(tempfile.mkdtemp(prefix="unlearn-faults-"))
    made.chmod(0o755)
    try:
        yield made
    finally:
        if not keep:
            disks.unmount_below(made)
            shutil.rmtree(made)


def keep_logs(home: Path, seed: int) -> Path:
    """Copy the logs of a run in which something broke; return the folder that they are in."""
    kept = KEPT / f"logs-{seed}"
    kept.mkdir(parents=True, exist_ok=True)
    for log in home.glob("*.log"):
        shutil.copyfile(log, kept / log.name)
    return kept


class Postgres:
    """One cluster in a directory of its own, on a disk of its own where ``megabytes`` are given."""

    def __init__(self, home: Path, *, megabytes: int | None = None) -> None:
        self._bin = _postgres_programs()
        place = home / "postgres"
        place.mkdir()
        self.disk = None if megabytes is None else Disk(place, megabytes=megabytes)
        self._data = place / "data"
        self._log = home / "postgres.log"
        self.port = free_port()
        self._data.mkdir(mode=0o700)
        self._log.touch()
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            for path in (self._data, self._log):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        self._run("initdb", "--auth", "trust", "--username", "postgres", "--no-sync")

    def start(self) -> None:
        # A killed PostgreSQL loses nothing that it has handed to the operating system.
        options = (
            f"-c listen_addresses=127.0.0.1 -c port={self.port} -c fsync=off "
            "-c unix_socket_directories= -c max_connections=150 "
            "-c max_wal_size=64MB -c min_wal_size=32MB"
        )
        self._run("pg_ctl", "--wait", "--log", str(self._log), "--options", options, "start")
        until(self._answers, "PostgreSQL start")

    def stop(self, *, how: str = "immediate") -> None:
        """Stop as by pulling the plug (``immediate``) or in order (``fast``)."""
        self._run("pg_ctl", "--wait", "--mode", how, "stop", check=False)

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/postgres"

    def move(self) -> None:
        """Start again on another port, with all that was committed, as a standby takes over."""
        self.stop()
        self.port = free_port()
        self.start()

    def revive(self) -> None:
        """Start again if it ended."""
        if not self._answers():
            self.stop()
            self.start()

    def _answers(self) -> bool:
        try:
            with psycopg.connect(
                f"postgresql://postgres@127.0.0.1:{self.port}/postgres", connect_timeout=2
            ):
                return True
        except psycopg.OperationalError:
            return False

    def _run(self, program: str, *arguments: str, check: bool = True) -> None:
        command = [str(self._bin / program), "--pgdata", str(self._data), *arguments]
        subprocess.run(
            [*_unprivileged(), *command],
            check=check,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=120,
            cwd="/",
        )


class Redis:
    """One server without persistence: what it forgets is gone."""

    def __init__(self, home: Path) -> None:
        if shutil.which("redis-server") is None:
            raise NotInstalled("redis-server")
        self._home = home
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self._home / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--save", ""],
                cwd=self._home,
                stdout=log,
                stderr=log,
            )
        until(self._answers, "Redis start")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def flush(self) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url, socket_connect_timeout=1) as client:
                return bool(client.ping())
        except redis.exceptions.RedisError:
            return False


def installed() -> str | None:
    """What is missing for the harness, if anything."""
    try:
        _postgres_programs()
    except NotInstalled as missing:
        return str(missing)
    return None if shutil.which("redis-server") else "redis-server"


def _postgres_programs() -> Path:
    asked = shutil.which("pg_config")
    candidates = []
    if asked:
        found = subprocess.run([asked, "--bindir"], capture_output=True, text=True, check=False)
        candidates.append(found.stdout.strip())
    candidates += sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
    for candidate in candidates:
        if candidate and (Path(candidate) / "initdb").is_file():
            return Path(candidate)
    raise NotInstalled("PostgreSQL's initdb")


def _unprivileged() -> Sequence[str]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return ()
    return ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups")
