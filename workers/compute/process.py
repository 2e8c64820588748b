"""The worker's side of a compute process: start, ask, watch, kill."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from service.errors import ServiceError

log = logging.getLogger(__name__)

#: Where the supervisor says which file descriptor holds the lock of the state directory.
LOCK_VARIABLE = "UNLEARN_STATE_LOCK"

#: How often a silent computation is looked at, at least.
WATCH_SECONDS = 0.5


class ComputeFailed(ServiceError):
    """The computation raised an error; ``kind`` is the error's class name."""

    code = "compute-failed"

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


class ComputeDied(ServiceError):
    """The compute process ended in the middle of a computation, or ran over its time."""

    code = "compute-died"


class Stopping(ServiceError):
    """The worker is asked to stop and its grace period is over."""

    code = "stopping"


class StoreAway(Stopping):
    """The store's bucket cannot be read or written now; the work waits until it can."""

    code = "store-away"


class ComputeProcess:
    """One long-lived compute process, started when first needed and replaced when it dies."""

    def __init__(self, *, device: str, threads: int) -> None:
        self._environment = {
            **os.environ,
            "UNLEARN_COMPUTE_DEVICE": device,
            "UNLEARN_COMPUTE_THREADS": str(threads),
        }
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._memory_kills = 0
        #: What the running process was told, as its user puts it: gone with the process.
        self.knows: dict[Any, Any] = {}

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return None if self._process is None else self._process.pid

    def call(
        self,
        operation: str,
        request: Mapping[str, Any],
        *,
        timeout_seconds: float,
        watch: Callable[[], None] = lambda: None,
        watch_seconds: float = WATCH_SECONDS,
        progress: Callable[[dict[str, Any]], None] = lambda _seen: None,
    ) -> dict[str, Any]:
        """Run one operation of ``workers.compute`` and return its answer.

        ``watch`` is called every ``watch_seconds`` while it runs; whatever it raises (a lost
        lease, a stop) kills the process and is raised from here. ``ComputeFailed``: the operation
        raised; ``ComputeDied``: the process died or took longer than ``timeout_seconds``.
        """
        started = time.monotonic()
        try:
            self._send({"operation": operation, "request": request})
            return self._answer(started + timeout_seconds, watch, watch_seconds, progress)
        except ComputeFailed:
            raise
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """End the process at once; the next call starts a fresh one."""
        process, self._process = self._process, None
        self.knows = {}
        if process is not None:
            process.kill()
            process.wait()

    def _send(self, message: Mapping[str, Any]) -> None:
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._process is not None
        stdin = self._process.stdin
        assert stdin is not None
        # By a thread of its own: a process that does not read must not be waited for without end.
        line = json.dumps(message) + "\n"
        threading.Thread(target=_write, args=(stdin, line), daemon=True).start()

    def _start(self) -> None:
        self.knows = {}
        self._memory_kills = _memory_kills()
        lock = os.environ.get(LOCK_VARIABLE)
        self._process = subprocess.Popen(  # our own interpreter, our own module
            [sys.executable, "-m", "workers.compute"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self._environment,
            # The lock is held until this process, too, is gone: it may be writing.
            pass_fds=() if lock is None else (int(lock),),
            # A Ctrl-C at the terminal is for the worker, which decides when its process ends.
            start_new_session=True,
        )
        self._lines = queue.Queue()
        assert self._process.stdout is not None
        threading.Thread(
            target=_read, args=(self._process.stdout, self._lines), daemon=True
        ).start()

    def _why_it_ended(self) -> str:
        """What the system says of the end; memory is only mentioned when it was that."""
        assert self._process is not None
        code = self._process.wait()
        if code >= 0:
            return f"the compute process exited with code {code}; see the worker's output"
        if code == -signal.SIGKILL and _memory_kills() > self._memory_kills:
            return (
                "memory ran out and the kernel ended the compute process; give the worker more "
                "memory, or lower recipe.batch_size or the size of the architecture"
            )
        return f"the compute process was ended by {signal.Signals(-code).name}"

    def _answer(
        self,
        deadline: float,
        watch: Callable[[], None],
        watch_seconds: float,
        progress: Callable[[dict[str, Any]], None],
    ) -> dict[str, Any]:
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
                message = json.loads(line)
                if "answer" in message:
                    answer: dict[str, Any] = message["answer"]
                    return answer
                if "error" in message:
                    raise ComputeFailed(message["error"]["kind"], message["error"]["message"])
                progress(message["progress"])
            if time.monotonic() >= deadline:
                raise ComputeDied("the computation ran over its time and was stopped")
            if time.monotonic() >= next_watch:
                watch()
                next_watch = time.monotonic() + watch_seconds


def _memory_kills() -> int:
    """How many processes the kernel has ended for lack of memory; 0 where it does not say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _write(stream: IO[str], line: str) -> None:
    # A process that died meanwhile is noticed by the end of its answers.
    with contextlib.suppress(OSError, ValueError):
        stream.write(line)
        stream.flush()


def _read(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)
