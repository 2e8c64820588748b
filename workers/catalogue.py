"""Tell the ledger what the workers can do."""

from __future__ import annotations

from service.ledger import capabilities
from service.ledger.capabilities import Announcement
from workers.runtime import Runtime


def announce(runtime: Runtime) -> None:
    """Write down the installed methods, architectures, recipe and gates with their schemas."""
    answer = runtime.compute.call(
        "catalogue", {}, timeout_seconds=runtime.settings.batch_timeout_seconds
    )
    with runtime.session() as session:
        capabilities.announce(
            session,
            [Announcement(**made) for made in answer["announcements"]],
            now=runtime.now(),
        )
