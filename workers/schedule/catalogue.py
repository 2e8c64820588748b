"""Tell the ledger what the workers can do."""

from __future__ import annotations

from collections.abc import Callable

from service.ledger.registry import capabilities
from service.messages.catalogue import CATALOGUE, Request
from workers.runtime import Runtime


def announce(runtime: Runtime) -> None:
    """Write down the installed methods, architectures, recipe and gates with their schemas."""
    answer = runtime.compute.call(
        CATALOGUE, Request(), timeout_seconds=runtime.settings.batch_timeout_seconds
    )
    with runtime.session() as session:
        capabilities.announce(session, answer.announcements, now=runtime.now())


def announcing_once(then: Callable[[], None]) -> Callable[[Runtime], None]:
    """A recipe that announces and calls ``then``; it does nothing more once that has succeeded.

    A worker may start before its database answers.
    """
    done = False

    def announce_due(runtime: Runtime) -> None:
        nonlocal done
        if not done:
            announce(runtime)
            done = True
            then()

    return announce_due
