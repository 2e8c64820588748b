"""The embedded form: API, worker and beat as processes of one machine with one state directory.

The parent computes nothing. It starts the three programs, restarts a crashed one after a growing
pause, and on SIGTERM or Ctrl-C stops them in order: beat, so that nothing new is woken; the API, so
that no new requests arrive; the workers, which finish their batch or hand it back. When the parent
itself is killed its programs end at once (see ``leash``), and until the last of them has ended
no other process can serve the state directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from pydantic import SecretStr
from rich.console import Console

from service import broker
from service.errors import ServiceError
from service.ledger.database import db, schema
from service.ledger.database.connections import Limits
from service.settings import Settings
from workers.compute import process
from workers.embedded import leash

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 10.0
#: A program that ran this long before it ended is restarted after the shortest pause.
STEADY_SECONDS = 30.0
#: A program that exits by itself this often in a row, each time soon, is given up.
#: One that is killed from outside is always restarted.
MAX_QUICK_EXITS = 6
#: How long the programs of a killed supervisor may take to end.
ENDING_SECONDS = 5.0

_console = Console(stderr=True, highlight=False)


def run(
    settings: Settings,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    processes: int = 1,
    logs: Path | None = None,
) -> int:
    """Run until stopped; return 0 after an ordered stop, 1 when a program keeps failing.

    ``processes`` is the number of worker processes. With ``logs`` each program writes to a file
    of its own there instead of to the terminal.
    """
    with _one_instance(settings.state_dir) as lock:
        if not _is_free(host, port):
            _console.print(f"[red]{host}:{port} is taken[/]; choose another one with --port")
            return 1
        _migrate(settings)
        supervisor = Supervisor(
            programs(settings, host=host, port=port, processes=processes),
            environment=environment(settings),
            logs=logs,
            lock=lock,
        )
        with _stop_on_signals(supervisor):
            supervisor.start()
            _announce(settings, host, port)
            return supervisor.watch()


@dataclass(frozen=True)
class Program:
    """One process to keep running, and how long its ordered stop may take."""

    name: str
    command: Sequence[str]
    stop_seconds: float


def programs(settings: Settings, *, host: str, port: int, processes: int) -> list[Program]:
    """Return the programs in the order of their start; they are stopped in reverse."""
    python = [sys.executable, "-m", "workers.embedded.leash"]
    celery = [*python, "celery", "-A", "workers.app"]
    uvicorn = [*python, "uvicorn", "service.main:create_app", "--factory"]
    # Threads, because computation runs in child processes; a single worker has nobody to gossip to.
    pool = ["--pool", "threads", "--concurrency", "5", "--without-gossip", "--without-mingle"]
    queues = ["-Q", ",".join(broker.QUEUES)]
    schedule = ["--schedule", str(settings.state_dir.resolve() / "beat"), "--pidfile", ""]
    workers = [
        Program(
            f"worker-{number}",
            [*celery, "worker", *pool, *queues, "-n", f"worker-{number}@%h", "--loglevel", "INFO"],
            stop_seconds=settings.grace_seconds + 10,
        )
        for number in range(1, processes + 1)
    ]
    address = ["--host", host, "--port", str(port), "--timeout-graceful-shutdown", "10"]
    api = Program("api", [*uvicorn, *address], stop_seconds=15)
    beat = Program("beat", [*celery, "beat", *schedule, "--loglevel", "WARNING"], stop_seconds=5)
    return [*workers, api, beat]


def environment(settings: Settings) -> dict[str, str]:
    """Return the environment in which a child process reads the same settings."""
    values = dict(os.environ)
    for name in Settings.model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        if isinstance(value, Path):
            value = value.resolve()
        variable = f"UNLEARN_{name.upper()}"
        if value is None:
            values.pop(variable, None)
        else:
            values[variable] = str(value)
    return values


@dataclass
class Supervisor:
    """Keeps programs running until it is asked to stop."""

    programs: Sequence[Program]
    environment: dict[str, str]
    logs: Path | None = None
    #: File descriptor of the state directory's lock, which running programs inherit and hold.
    lock: int | None = None
    #: Pipe whose end stops the programs when this process ends: (reading, writing) end.
    _leash: tuple[int, int] = field(default_factory=os.pipe)
    _running: dict[str, _Child] = field(default_factory=dict)
    _stop_asked: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Start every program."""
        for program in self.programs:
            self._running[program.name] = _Child(program)
            self._spawn(self._running[program.name])

    def ask_to_stop(self) -> None:
        """Make ``watch`` stop everything in order; when asked a second time, at once."""
        if self._stop_asked.is_set():
            for child in self._running.values():
                child.signal(signal.SIGKILL)
        self._stop_asked.set()

    def watch(self) -> int:
        """Restart programs that end, until asked to stop; then stop everything."""
        hopeless = None
        while hopeless is None and not self._stop_asked.wait(0.2):
            hopeless = next((c for c in self._running.values() if not self._revive(c)), None)
        self._stop_all()
        if hopeless is None:
            return 0
        _console.print(f"[red]{hopeless.program.name} does not stay up[/]; see its output above")
        return 1

    def _revive(self, child: _Child) -> bool:
        """Return whether the child runs, or will be restarted."""
        if child.process is not None and child.process.poll() is not None:
            child.note_end(child.process.returncode)
            if child.quick_exits >= MAX_QUICK_EXITS:
                return False
            _console.print(
                f"{child.program.name} ended ({_ending(child.process.returncode)}); "
                f"starting it again in {child.pause_seconds:g} s"
            )
            child.process = None
        if child.process is None and time.monotonic() >= child.due:
            self._spawn(child)
        return True

    def _spawn(self, child: _Child) -> None:
        # A session of its own: Ctrl-C reaches the parent alone, which stops the rest in order.
        handed = {leash.VARIABLE: self._leash[0], process.LOCK_VARIABLE: self.lock}
        kept = {name: number for name, number in handed.items() if number is not None}
        with self._output(child.program.name) as output:
            child.process = subprocess.Popen(  # noqa: S603 - the commands are those above
                child.program.command,
                env=self.environment | {name: str(number) for name, number in kept.items()},
                pass_fds=tuple(kept.values()),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                start_new_session=True,
            )
        child.started = time.monotonic()

    @contextlib.contextmanager
    def _output(self, name: str) -> Iterator[IO[bytes] | None]:
        if self.logs is None:
            yield None
            return
        self.logs.mkdir(parents=True, exist_ok=True)
        with (self.logs / f"{name}.log").open("ab") as output:
            yield output

    def _stop_all(self) -> None:
        """Stop programs in reverse order; workers, which take longest, at the same time."""
        children = list(self._running.values())
        edge = [c for c in children if not c.program.name.startswith("worker")]
        for group in (*([c] for c in reversed(edge)), [c for c in children if c not in edge]):
            for child in group:
                child.signal(signal.SIGTERM)
            for child in group:
                child.wait_or_kill()


@dataclass
class _Child:
    program: Program
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    due: float = 0.0
    quick_ends: int = 0
    quick_exits: int = 0
    pause_seconds: float = FIRST_PAUSE_SECONDS

    def note_end(self, code: int) -> None:
        steady = time.monotonic() - self.started >= STEADY_SECONDS
        self.quick_exits = 0 if steady or code < 0 else self.quick_exits + 1
        self.quick_ends = 0 if steady else self.quick_ends + 1
        doubled = FIRST_PAUSE_SECONDS * 2 ** max(self.quick_ends - 1, 0)
        self.pause_seconds = min(doubled, LONGEST_PAUSE_SECONDS)
        self.due = time.monotonic() + self.pause_seconds

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def wait_or_kill(self) -> None:
        if self.process is None:
            return
        try:
            self.process.wait(self.program.stop_seconds)
        except subprocess.TimeoutExpired:
            _console.print(f"{self.program.name} did not stop in time; killing it")
            self.process.kill()
            self.process.wait()


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit {code}"


def _migrate(settings: Settings) -> None:
    engine = db.engine(settings.database, limits=Limits.of_bulk(settings))
    schema.upgrade(engine)
    engine.dispose()


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


@contextlib.contextmanager
def _one_instance(state_dir: Path) -> Iterator[int]:
    """Hold the state directory's lock: two embedded services must not share one database.

    The lock ends with the last process that has its file open; programs of a supervisor that was
    killed are waited for, up to ``ENDING_SECONDS``.
    """
    state_dir.mkdir(parents=True, exist_ok=True)
    with (state_dir / "serve.lock").open("w") as lock:
        deadline = time.monotonic() + ENDING_SECONDS
        while not _locked(lock):
            if time.monotonic() >= deadline:
                raise ServiceError(
                    f"{state_dir} is already being served, or a process of an earlier start still "
                    "runs; stop that one first"
                )
            time.sleep(0.1)
        yield lock.fileno()


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _stop_on_signals(supervisor: Supervisor) -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda *_: supervisor.ask_to_stop()) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _announce(settings: Settings, host: str, port: int) -> None:
    shown = f"[{host}]" if ":" in host else host
    _console.print(f"API    http://{shown}:{port}  (described at /openapi.json)")
    _console.print("       the same address in a browser is the console: sign in with a key")
    _console.print(f"state  {settings.state_dir.resolve()}")
    _console.print("key    unlearn keys create NAME prints one; stop all of it with Ctrl-C")
