"""Announce in the ledger what the workers can do."""

from __future__ import annotations

import logging
from collections.abc import Callable

from service.ledger.registry import capabilities, models
from service.messages.catalogue import CATALOGUE, Request
from workers.runtime import Runtime

log = logging.getLogger(__name__)


def announce(runtime: Runtime) -> None:
    """Record the installed methods, architectures, recipe and gates with their schemas."""
    answer = runtime.compute.call(
        CATALOGUE, Request(), timeout_seconds=runtime.settings.batch_timeout_seconds
    )
    for why in answer.refused:
        log.error("%s", why)
    with runtime.session() as session:
        capabilities.announce(session, answer.announcements, now=runtime.now())
        gone = capabilities.remove_others(session, answer.announcements, now=runtime.now())
        missed = models.naming_methods(session, {one.name for one in gone if one.kind == "method"})
    for name, method in missed:
        log.warning(
            "the policy of model %s names the method %s, which is not installed any more; its "
            "batches go on with the next one",
            name,
            method,
        )


def announcing_once(then: Callable[[], None]) -> Callable[[Runtime], None]:
    """Return a job that announces, calls ``then``, and does nothing once both have succeeded.

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
