"""The compute process: one request a line on standard input, answers on standard output."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
import time
from typing import IO, Any

from service import logs
from service.messages import wire
from service.messages.parts import Kept
from service.messages.train import Curve
from workers.compute import failures

#: A log line for people.
LINE = "%(levelname)s %(name)s %(message)s"

#: Least time between two progress messages.
PROGRESS_SECONDS = 0.2

log = logging.getLogger("workers.compute")


def main() -> None:
    """Serve until standard input ends, which also happens when the worker is killed."""
    logging.basicConfig(level=logging.INFO)
    style: logs.Style = "json" if os.environ.get("UNLEARN_COMPUTE_LOG_FORMAT") == "json" else "text"
    logging.getLogger().handlers[0].setFormatter(logs.formatter(style, LINE))
    logging.captureWarnings(style == "json")
    # Standard output carries the protocol: whatever a library prints goes to standard error.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    requests = _follow(sys.stdin)
    from unlearning.core.determinism import deterministic
    from workers.compute import workspace

    place = workspace.Workspace(
        device=os.environ.get("UNLEARN_COMPUTE_DEVICE", "auto"),
        threads=int(os.environ.get("UNLEARN_COMPUTE_THREADS", "0")),
    )
    with deterministic():
        while (line := requests.get()) is not None:
            _serve(line, place, replies)


def _serve(line: str, place: Any, replies: IO[str]) -> None:
    try:
        operation, request = wire.read_request(line)
    except wire.BadMessage as error:
        log.error("a request cannot be read: %s", error)
        replies.write(wire.write_failure(failures.of(error)) + "\n")
        return
    last = 0.0

    def progress(seen: Any) -> None:
        nonlocal last
        # These must always reach the worker, however soon they follow other progress.
        if isinstance(seen, Kept | Curve) or time.monotonic() - last >= PROGRESS_SECONDS:
            last = time.monotonic()
            replies.write(wire.write_progress(operation, seen) + "\n")

    # ``operation`` is one of a fixed set, so that no import path comes from a message.
    module = importlib.import_module(f"workers.compute.{operation.name}")
    try:
        # Within the try: a number that JSON cannot express is reported like any other error.
        reply = wire.write_answer(operation, module.run(request, place, progress))
    except Exception as error:  # the worker decides what follows from it
        log.exception("operation %s failed", operation.name)
        reply = wire.write_failure(failures.of(error))
    replies.write(reply + "\n")


def _follow(stdin: IO[str]) -> Any:
    """Yield requests as they come; the end of input ends the process even in mid-computation."""
    import queue

    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in stdin:
            lines.put(line)
        # The worker has ended: nobody waits for the answer, and another worker may already have
        # taken the work over.
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return lines


if __name__ == "__main__":
    main()
