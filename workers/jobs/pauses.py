"""Pauses after background work failed, shared by all workers."""

from __future__ import annotations

from service.ledger.batches import leases
from workers.runtime import Runtime

#: Pause after a failed training.
PAUSE_SECONDS = 3600.0


def pausing(runtime: Runtime, what: str) -> bool:
    """Return whether the work with the lease ``what`` is paused."""
    with runtime.lease(_key(what)) as free:
        return free is None


def pause(runtime: Runtime, what: str) -> None:
    """Take a lease that is never released: the pause ends when the lease expires."""
    with runtime.session() as session:
        leases.acquire(
            session, _key(what), owner=runtime.owner, seconds=PAUSE_SECONDS, now=runtime.now()
        )


def _key(what: str) -> str:
    kind, _, number = what.partition(":")
    return f"{kind}-pause:{number}"
