"""Pauses of work that failed and that nobody waits for, for all workers alike."""

from __future__ import annotations

from service.ledger.batches import leases
from workers.runtime import Runtime

#: After a training failed, the next one waits this long.
PAUSE_SECONDS = 3600.0


def pausing(runtime: Runtime, what: str) -> bool:
    """Return whether the work whose lease is ``what`` is to be left alone."""
    with runtime.lease(_key(what)) as free:
        return free is None


def pause(runtime: Runtime, what: str) -> None:
    """Leave the work alone. The lease is never released: its running out ends the pause."""
    with runtime.session() as session:
        leases.acquire(
            session, _key(what), owner=runtime.owner, seconds=PAUSE_SECONDS, now=runtime.now()
        )


def _key(what: str) -> str:
    kind, _, number = what.partition(":")
    return f"{kind}-pause:{number}"
