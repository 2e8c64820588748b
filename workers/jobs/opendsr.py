"""Tell controllers of new states of their OpenDSR requests, at several hosts at once."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import urlsplit

from service.ledger.batches import leases
from service.ledger.database import db
from service.ledger.opendsr import callbacks
from service.ledger.opendsr.callbacks import Due, Told
from service.ledger.opendsr.processor import BadProcessor, Processor
from service.ledger.webhooks import destinations
from service.ledger.webhooks.destinations import Lookup, Rules
from service.ledger.webhooks.outbox import Backoff
from workers.fault_points import reach
from workers.jobs import delivering
from workers.runtime import Runtime

log = logging.getLogger(__name__)

#: What a runtime does no more than once in a while: looking for requests that were opened again
#: after their end, and for a certificate that can sign.
_REOPENING, _SIGNING = "opendsr:reopening", "opendsr:signing"


def run_due(runtime: Runtime) -> bool:
    """Tell what is due; True if something was sent. Without OpenDSR settings there is nothing."""
    if not runtime.settings.opendsr_domain:
        return False
    return Sender(runtime).run()


@dataclass
class Sender:
    """Sends callbacks; those of one host in turn, up to ``webhook_connections`` hosts at once."""

    runtime: Runtime
    backoff: Backoff = field(default_factory=Backoff)
    lookup: Lookup = destinations.look_up
    jitter: Callable[[], float] = random.random
    #: Tells the time of attempts and pauses.
    clock: Callable[[], datetime] | None = None
    #: After this long no further callback is begun with.
    round_seconds: float = 30.0

    def run(self) -> bool:
        """Send what is due now; return whether anything was."""
        self._reopen()
        if self.runtime.resting(_SIGNING) or not self._due():
            return False
        signer = self._signer()
        if signer is None:
            self.runtime.rest(_SIGNING)
            return False
        with self.runtime.session() as session:
            held = leases.acquire(
                session,
                callbacks.LEASE,
                owner=self.runtime.owner,
                seconds=self._lease_seconds,
                now=self._now(),
            )
        if held is None:
            return False
        with self.runtime.giving_back(held):
            # Read again: another sender may just have told them.
            return self._send(self._due(), signer, held)

    def _send(self, due: Sequence[Due], signer: Processor, held: leases.Held) -> bool:
        by_host: dict[str, list[Due]] = {}
        for one in due:
            by_host.setdefault(urlsplit(one.url).netloc, []).append(one)
        ends_at = time.monotonic() + self.round_seconds
        most = self.runtime.settings.webhook_connections
        with ThreadPoolExecutor(most, thread_name_prefix="opendsr") as threads:
            turns = [
                threads.submit(self._tell, its, signer, held, ends_at) for its in by_host.values()
            ]
        try:
            for turn in turns:
                turn.result()
        except leases.LeaseLost:
            log.info("OpenDSR callbacks were taken over by another worker")
        return bool(due)

    def _tell(
        self, due: Sequence[Due], signer: Processor, held: leases.Held, ends_at: float
    ) -> None:
        """Tell one host in turn, up to the first failure: the next would most likely fail, too."""
        for number, one in enumerate(due, start=1):
            if time.monotonic() > ends_at or self.runtime.stop.is_set():
                return
            told = self._attempt(one, signer)
            reach("opendsr.sent")
            now = self._now()
            with self.runtime.session() as session:
                leases.renew(session, held, seconds=self._lease_seconds, now=now)
                callbacks.record(
                    session,
                    told,
                    held=held,
                    behind=due[number:],
                    backoff=self.backoff,
                    jitter=self.jitter(),
                    now=now,
                )
            if told.error is not None:
                return

    def _attempt(self, due: Due, signer: Processor) -> Told:
        at = self._now()
        outcome = delivering.deliver(
            due.url,
            due.body,
            {
                "Content-Type": "application/json",
                "User-Agent": delivering.USER_AGENT,
                **signer.headers(due.body),
            },
            rules=Rules.from_settings(self.runtime.settings),
            lookup=self.lookup,
            seconds=self.runtime.settings.webhook_timeout_seconds,
        )
        if outcome.error is not None:
            log.warning(
                "OpenDSR request %s: a callback was not told %s: %s",
                due.request,
                due.status.value,
                outcome.error,
            )
        return Told(due, at, outcome.answered, outcome.error, outcome.retry_after)

    def _signer(self) -> Processor | None:
        """Return the processor; None if it cannot sign, in which case callbacks wait."""
        try:
            found = Processor.from_settings(self.runtime.settings)
        except BadProcessor as error:
            log.error("OpenDSR callbacks wait: %s", error)
            return None
        now = self._now()
        if found is not None and not found.is_valid(now):
            log.error("OpenDSR callbacks wait: the certificate of %s has expired", found.domain)
            return None
        return found

    def _due(self) -> list[Due]:
        with self.runtime.session() as session:
            return callbacks.due(db.read_only(session), now=self._now())

    def _reopen(self) -> None:
        if self.runtime.resting(_REOPENING):
            return
        self.runtime.rest(_REOPENING)
        with self.runtime.session() as session:
            callbacks.reopen(session)

    def _now(self) -> datetime:
        return self.clock() if self.clock is not None else self.runtime.now()

    @property
    def _lease_seconds(self) -> float:
        # It is renewed with each record, between two of which one attempt may take its whole time.
        settings = self.runtime.settings
        return settings.lease_seconds + settings.webhook_timeout_seconds
