"""Models that are trained for a live anchor in spare time: no deletion waits for one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from service.ledger.batches import leases
from service.messages.operation import Operation, Struct
from workers.compute.process import ComputeDied, ComputeFailed, Stopping
from workers.jobs import pauses
from workers.runtime import Runtime

Request = TypeVar("Request", bound=Struct)
Answer = TypeVar("Answer", bound=Struct)
Progress = TypeVar("Progress", bound=Struct)

log = logging.getLogger(__name__)


def train_one(
    runtime: Runtime,
    kind: str,
    anchors: Sequence[int],
    train: Callable[[Runtime, int, leases.Held], bool],
) -> bool:
    """Call ``train`` for one of the anchors at a time until it has trained a model; True if so.

    ``train`` gets the lease of the models of this ``kind`` of the anchor. Anchors whose lease
    another worker has, or whose last training failed lately, are passed over.
    """
    for anchor_id in anchors:
        key = _key(kind, anchor_id)
        if pauses.pausing(runtime, key):
            continue
        with runtime.lease(key) as held:
            if held is None or runtime.stop.is_set():
                continue
            if train(runtime, anchor_id, held):
                return True
    return False


def ask(
    runtime: Runtime,
    kind: str,
    anchor_id: int,
    operation: Operation[Request, Answer, Progress],
    request: Request,
    *,
    held: leases.Held,
    watch: Callable[[], None],
) -> Answer | None:
    """Return the answer of the compute process; None if it was interrupted or has failed.

    After a failure the anchor is passed over for a while.
    """
    try:
        return runtime.ask(
            operation,
            request,
            held=held,
            timeout_seconds=runtime.settings.training_timeout_seconds,
            watch=watch,
        )
    except (ComputeFailed, ComputeDied, OSError) as error:
        log.warning("no %s for version %d: %s", kind, anchor_id, error)
        pauses.pause(runtime, _key(kind, anchor_id))
    except (Stopping, leases.LeaseLost):
        pass
    return None


def _key(kind: str, anchor_id: int) -> str:
    return f"{kind}:{anchor_id}"
