"""The compute process: one request a line on standard input, answers on standard output."""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import threading
import time
from typing import IO, Any

from workers.compute import failures

OPERATIONS = ("catalogue", "describe", "measure", "train", "prepare", "references", "unlearn")

#: Progress is told at most this often.
PROGRESS_SECONDS = 0.2

log = logging.getLogger("workers.compute")


def main() -> None:
    """Serve until standard input ends, which it also does when the worker is killed."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    # Standard output carries the protocol: whatever a library prints goes to standard error.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    requests = _follow(sys.stdin)
    from workers.compute import workspace

    place = workspace.Workspace(
        device=os.environ.get("UNLEARN_COMPUTE_DEVICE", "auto"),
        threads=int(os.environ.get("UNLEARN_COMPUTE_THREADS", "0")),
    )
    while (line := requests.get()) is not None:
        _serve(json.loads(line), place, answers)


def _serve(message: dict[str, Any], place: Any, answers: IO[str]) -> None:
    operation = message["operation"]
    if operation not in OPERATIONS:
        raise SystemExit(f"no operation is called {operation!r}")
    last = 0.0

    def progress(seen: dict[str, Any]) -> None:
        nonlocal last
        # Where something was stored must reach the worker, however soon it comes.
        if "kept" in seen or time.monotonic() - last >= PROGRESS_SECONDS:
            last = time.monotonic()
            answers.write(json.dumps({"progress": seen}) + "\n")

    module = importlib.import_module(f"workers.compute.{operation}")
    try:
        found = {"answer": module.run(message["request"], place, progress)}
        # Within the try: a number that JSON has no word for is an error like any other.
        answer = json.dumps(found, allow_nan=False)
    except Exception as error:  # whatever it was, the worker decides what follows from it
        log.exception("operation %s failed", operation)
        told = {"kind": failures.kind(error), "message": failures.message(error)}
        answer = json.dumps({"error": told})
    answers.write(answer + "\n")


def _follow(stdin: IO[str]) -> Any:
    """Requests as they come; the end of input ends the process even in mid-computation."""
    import queue

    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in stdin:
            lines.put(line)
        # The worker is gone: nobody waits for the answer, and another worker may already be
        # doing the same work.
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return lines


if __name__ == "__main__":
    main()
