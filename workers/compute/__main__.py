"""The compute process: one request a line on standard input, answers on standard output.

It may be one of several, which compute each request together (``workers.compute.group``).
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
import time
from typing import IO, TYPE_CHECKING, Any, NoReturn

from service import logs
from service.messages import wire
from service.messages.parts import Kept
from service.messages.train import Curve
from unlearning.errors import BadTraining, LostRank, UnlearningError
from workers.compute import failures, launch

if TYPE_CHECKING:
    from workers.compute.workspace import Workspace

#: A log line for people.
LINE = "%(levelname)s %(name)s %(message)s"

#: Least time between two progress messages.
PROGRESS_SECONDS = 0.2

#: Torchrun's variables: the number of this process on its machine, and how many there are.
_OWN = ("LOCAL_RANK", "LOCAL_WORLD_SIZE")

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
    one_of_several = launch.GROUP_VARIABLE in os.environ
    leads = not one_of_several or os.environ["RANK"] == "0"
    number, of = map(int, (os.environ[name] for name in _OWN) if one_of_several else (0, 1))
    requests = _follow(sys.stdin, status=int(one_of_several)) if leads else None
    from unlearning.core.determinism import deterministic
    from workers.compute import workspace

    place = workspace.Workspace(
        device=os.environ.get("UNLEARN_COMPUTE_DEVICE", "auto"),
        threads=int(os.environ.get("UNLEARN_COMPUTE_THREADS", "0")),
        number=number,
        of=of,
    )
    with deterministic():
        if one_of_several:
            _serve_with_others(requests, place, replies)
        assert requests is not None
        while (line := requests.get()) is not None:
            _send(_reply(line, place, replies), replies)


def _serve_with_others(requests: Any, place: Workspace, replies: IO[str]) -> NoReturn:
    """Compute each request as one of several processes; end when one of them is lost."""
    from torch.distributed import DistError

    from workers.compute.group import Group

    try:
        group = Group.join(place.device)
        if group.leads:
            group.watch(lambda line: _send(line, replies))
        while not group.broken:
            if group.leads:
                line = requests.get()
                group.hand_on(line)
            else:
                line = group.receive()
            reply = group.settle(_reply(line, place, replies if group.leads else None))
            if group.leads:
                _send(reply, replies)
    except (LostRank, DistError) as error:
        log.error("%s", error)
    # Its threads, and those of the backends, must not keep the process.
    os._exit(1)


def _reply(line: str, place: Workspace, replies: IO[str] | None) -> str:
    """Run a request; return the answer or the failure. Progress goes to ``replies``."""
    try:
        operation, request = wire.read_request(line)
    except wire.BadMessage as error:
        log.error("a request cannot be read: %s", error)
        return wire.write_failure(failures.of(error))
    last = 0.0

    def progress(seen: Any) -> None:
        nonlocal last
        if replies is None:
            return
        # These must always reach the worker, however soon they follow other progress.
        if isinstance(seen, Kept | Curve) or time.monotonic() - last >= PROGRESS_SECONDS:
            last = time.monotonic()
            _send(wire.write_progress(operation, seen), replies)

    # ``operation`` is one of a fixed set, so that no import path comes from a message.
    module = importlib.import_module(f"workers.compute.{operation.name}")
    try:
        # Within the try: a number that JSON cannot express is reported like any other error.
        reply = wire.write_answer(operation, module.run(request, place, progress))
    except LostRank:
        raise
    except Exception as error:  # the worker decides what follows from it
        log_failure(operation.name, error)
        reply = wire.write_failure(failures.of(error))
    return reply


def log_failure(operation: str, error: Exception) -> None:
    """Log why an operation failed; with its traceback unless the outcome is a foreseen one."""
    # Of training code from outside the traceback says where in that code it failed.
    foreseen = isinstance(error, UnlearningError) and not isinstance(error, BadTraining)
    log.error("operation %s failed: %s", operation, error, exc_info=None if foreseen else error)


def _send(line: str, replies: IO[str]) -> None:
    replies.write(line + "\n")


def _follow(stdin: IO[str], *, status: int) -> Any:
    """Yield requests as they come; the end of input ends the process even in mid-computation."""
    import queue

    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in stdin:
            lines.put(line)
        # The worker has ended: nobody waits for the answer, and another worker may already have
        # taken the work over.
        os._exit(status)

    threading.Thread(target=read, daemon=True).start()
    return lines


if __name__ == "__main__":
    main()
