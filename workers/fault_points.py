"""Named places where a test may break the service on purpose.

Unarmed, which is always so outside a fault test, reaching a point costs one look at the
environment. Armed, ``UNLEARN_FAULTS`` names a directory; a file in it called like the point says
what happens to the first process that gets there, and is taken away by it.
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

#: Every point there is, in the order in which a batch passes them.
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
    "purge.destroyed",
    "ingest.stored",
    "ingest.sliced",
)


class InjectedFault(RuntimeError):
    """Raised on purpose at a fault point."""


def reach(point: str, *, spoil: Callable[[], None] = lambda: None) -> None:
    """Do here whatever a fault test has asked for; nothing otherwise.

    ``spoil`` is what the action ``spoil`` does at a point that has something to be spoilt.
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
    """By how much this process' clock is to be wrong in a fault test; nothing otherwise."""
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
