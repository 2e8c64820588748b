"""Named places where a fault test makes the service fail.

Outside a fault test, reaching a point costs one look at the environment. In a fault test,
``UNLEARN_FAULTS`` names a directory; a file in it with a point's name holds the action for the
first process that reaches the point, which removes the file.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

log = logging.getLogger(__name__)

#: Every fault point, in the order in which a batch passes them.
POINTS = (
    "batch.claimed",
    "batch.left_to_training",
    "batch.computing",
    "batch.kept",
    "batch.computed",
    "batch.recording",
    "batch.recorded",
    "erase.overwritten",
    "erase.marked",
    "erase.destroyed",
    "erase.blanked",
    "compute.loaded",
    "compute.updated",
    "compute.stored",
    "compute.verified",
    "train.claimed",
    "train.kept",
    "train.computed",
    "train.recorded",
    "prepare.computed",
    "references.computed",
    "margins.computed",
    "margins.recorded",
    "purge.destroyed",
    "webhooks.sent",
    "opendsr.sent",
    "registry.copied",
    "registry.done",
    "ingest.stored",
    "ingest.sliced",
)


class InjectedFault(RuntimeError):
    """Raised on purpose at a fault point."""


def reach(point: str, *, spoil: Callable[[], None] = lambda: None) -> None:
    """Do what a fault test has asked for at this point; otherwise nothing.

    ``spoil`` is called for the action ``spoil``, at points with data that can be spoilt.
    """
    directory = os.environ.get("UNLEARN_FAULTS")
    if not directory:
        return
    order = Path(directory) / point
    try:
        action = order.read_text().strip()
        order.unlink()
    except FileNotFoundError:
        return  # not armed, or another process was first
    log.warning("fault point %s: %s", point, action)
    if action == "spoil":
        spoil()
    elif action == "wait":
        _wait(order.with_name(f"{point}.go"))
    else:
        _act(action)


def clock_offset() -> timedelta:
    """Return the error of this process' clock in a fault test; zero otherwise."""
    return timedelta(seconds=float(os.environ.get("UNLEARN_FAULT_CLOCK_SECONDS", "0")))


def _wait(sign: Path) -> None:
    while not sign.exists():
        time.sleep(0.02)


def _act(action: str) -> None:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)  # until somebody sends SIGCONT
    elif action == "full_disk":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    elif action == "out_of_memory":
        raise MemoryError("injected")
    else:
        raise InjectedFault(f"injected: {action}")
