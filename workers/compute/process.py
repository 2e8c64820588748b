"""The worker's side of a compute process: start it, send requests, watch it, kill it."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from service.errors import ServiceError
from service.messages import wire
from service.messages.failures import MACHINE_FAULTS, Failure, FailureKind
from service.messages.operation import Answer, Operation, Progress, Request
from workers.compute.launch import ALONE, Processes

log = logging.getLogger(__name__)

#: Environment variable with the file descriptor that holds the lock of the state directory.
LOCK_VARIABLE = "UNLEARN_STATE_LOCK"

#: Longest time between two checks of a computation that reports nothing.
WATCH_SECONDS = 0.5


class ComputeFailed(ServiceError):
    """The computation raised an error; ``kind`` is for code, ``name`` (its class) for people."""

    code = "compute-failed"

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.kind: FailureKind = failure.kind
        #: Whether the process has ended.
        self.last = failure.last
        self.name = failure.name


class ComputeDied(ServiceError):
    """The compute process ended in mid-computation, exceeded its time or sent an invalid reply."""

    code = "compute-died"


def may_pass(failed: ComputeFailed | ComputeDied) -> bool:
    """Return whether the failure may be of the machine, so that another attempt may succeed."""
    return isinstance(failed, ComputeDied) or failed.kind in MACHINE_FAULTS


class Stopping(ServiceError):
    """The worker was asked to stop and its grace period is over."""

    code = "stopping"


class StoreAway(Stopping):
    """The store's bucket cannot be read or written now; the work waits until it can."""

    code = "store-away"


class ComputeProcess:
    """One long-lived compute process, started when first needed and replaced when it dies.

    It may be several that compute together; they start, answer and end as one.
    """

    def __init__(
        self,
        *,
        device: str,
        threads: int,
        log_format: str = "text",
        processes: Processes = ALONE,
    ) -> None:
        self._processes = processes
        self._environment = {
            **os.environ,
            "UNLEARN_COMPUTE_DEVICE": device,
            "UNLEARN_COMPUTE_THREADS": str(threads),
            "UNLEARN_COMPUTE_LOG_FORMAT": log_format,
            **processes.environment(),
        }
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader: threading.Thread | None = None
        self._memory_kills = 0
        #: What the running process has received, by its user's keys; cleared with the process.
        self.knows: dict[Any, Any] = {}

    @property
    def pid(self) -> int | None:
        """Return the process id while the process runs, else None; of several, their launcher's."""
        return None if self._process is None else self._process.pid

    def call(
        self,
        operation: Operation[Request, Answer, Progress],
        request: Request,
        *,
        timeout_seconds: float,
        watch: Callable[[], None] = lambda: None,
        watch_seconds: float = WATCH_SECONDS,
        progress: Callable[[Progress], None] = lambda _seen: None,
    ) -> Answer:
        """Run one operation of ``workers.compute`` and return its answer.

        ``watch`` is called every ``watch_seconds`` while it runs; an exception from it (a lost
        lease, a stop) kills the process and is raised from here. ``ComputeFailed``: the operation
        raised; ``ComputeDied``: the process died, took longer than ``timeout_seconds`` or sent
        an invalid reply.
        """
        started = time.monotonic()
        try:
            self._send(wire.write_request(operation, request))
            return self._answer(
                operation, started + timeout_seconds, watch, watch_seconds, progress
            )
        except ComputeFailed as failed:
            if failed.last:
                self.kill()
            raise
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """End the process at once; the next call starts a fresh one."""
        process, self._process = self._process, None
        self.knows = {}
        if process is None:
            return
        process.kill()
        process.wait()
        if self._processes.several:
            # Each of them holds the other end of both pipes: they end when this one of the input
            # closes, and have ended when nobody holds that of the output.
            assert process.stdin is not None
            assert self._reader is not None
            with contextlib.suppress(OSError):
                process.stdin.close()
            self._reader.join()

    def _send(self, line: str) -> None:
        if self._process is None or self._process.poll() is not None:
            self.kill()
            self._start()
        assert self._process is not None
        stdin = self._process.stdin
        assert stdin is not None
        # In a thread, because a write to a process that does not read would block without limit.
        threading.Thread(target=_write, args=(stdin, line + "\n"), daemon=True).start()

    def _start(self) -> None:
        self.knows = {}
        self._memory_kills = _memory_kills()
        lock = os.environ.get(LOCK_VARIABLE)
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter, our own module
            self._processes.command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self._environment,
            # The child shares the lock, which is held until it has ended too: it may be writing.
            pass_fds=() if lock is None else (int(lock),),
            # Ctrl-C at the terminal goes to the worker alone, which decides when the child ends.
            start_new_session=True,
        )
        self._lines = queue.Queue()
        assert self._process.stdout is not None
        self._reader = threading.Thread(
            target=_read, args=(self._process.stdout, self._lines), daemon=True
        )
        self._reader.start()

    def _why_it_ended(self) -> str:
        """Return why the process ended; memory is only named when the kernel reports it."""
        assert self._process is not None
        code = self._process.wait()
        of_memory = code == -signal.SIGKILL or self._processes.several
        if of_memory and _memory_kills() > self._memory_kills:
            return (
                "memory ran out and the kernel ended the compute process; give the worker more "
                "memory, or lower recipe.batch_size or the size of the architecture"
            )
        if code >= 0:
            return f"the compute process exited with code {code}; see the worker's output"
        return f"the compute process was ended by {signal.Signals(-code).name}"

    def _answer(
        self,
        operation: Operation[Request, Answer, Progress],
        deadline: float,
        watch: Callable[[], None],
        watch_seconds: float,
        progress: Callable[[Progress], None],
    ) -> Answer:
        next_watch = time.monotonic() + watch_seconds
        while True:
            wait = min(next_watch, deadline) - time.monotonic()
            try:
                line = self._lines.get(timeout=max(wait, 0.001))
            except queue.Empty:
                line = ""
            if line is None:
                raise ComputeDied(self._why_it_ended())
            if line:
                reply = _reply(operation, line)
                if isinstance(reply, wire.Answered):
                    return reply.answer
                if isinstance(reply, Failure):
                    raise ComputeFailed(reply)
                progress(reply.progress)
            if time.monotonic() >= deadline:
                raise ComputeDied("the computation ran over its time and was stopped")
            if time.monotonic() >= next_watch:
                watch()
                next_watch = time.monotonic() + watch_seconds


def _reply(
    operation: Operation[Request, Answer, Progress], line: str
) -> wire.Answered[Answer] | wire.Progressed[Progress] | Failure:
    try:
        return wire.read_reply(operation, line)
    except wire.BadMessage as error:
        raise ComputeDied(
            f"the compute process sent a line that cannot be read ({error}) and was ended; let one "
            "version of the code run the worker and its compute process"
        ) from error


def _memory_kills() -> int:
    """Return how many processes the kernel has ended for lack of memory; 0 if unknown."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _write(stream: IO[str], line: str) -> None:
    # A process that died meanwhile is detected when its output ends.
    with contextlib.suppress(OSError, ValueError):
        stream.write(line)
        stream.flush()


def _read(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)
