"""Deliver events to webhooks: one at a time to each, to several webhooks at once."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import datetime

from service.ledger.batches import leases
from service.ledger.database import db
from service.ledger.webhooks import destinations, endpoints, outbox, signatures
from service.ledger.webhooks.destinations import Lookup, Rules
from service.ledger.webhooks.events import MEDIA_TYPE, Event
from service.ledger.webhooks.outbox import Attempt, Backoff, Work
from service.ledger.webhooks.sealing import NotOpened, Sealer
from workers.fault_points import reach
from workers.jobs import delivering
from workers.runtime import Runtime

log = logging.getLogger(__name__)

#: Deliveries are recorded together: so many of them, or those of so many seconds.
RECORDED_AT_ONCE = 20
RECORDED_AFTER_SECONDS = 1.0


def run_due(runtime: Runtime) -> bool:
    """Deliver what is due; True if something was sent."""
    return Sender(runtime).run()


@dataclass
class Sender:
    """Delivers to every webhook that is due, at most ``webhook_connections`` at once."""

    runtime: Runtime
    backoff: Backoff = field(default_factory=Backoff)
    lookup: Lookup = destinations.look_up
    jitter: Callable[[], float] = random.random
    #: Tells the time of attempts and pauses.
    clock: Callable[[], datetime] | None = None
    #: After this long no further webhook is begun with: due dates are looked at.
    round_seconds: float = 30.0
    #: After this long a webhook gives its connection to another one.
    turn_seconds: float = 10.0
    #: When the next event may be sent to each webhook, by the monotonic clock.
    _free_at: dict[str, float] = field(default_factory=dict, init=False)

    def run(self) -> bool:
        """Deliver until nothing is due or ``round_seconds`` have passed.

        A receiver that is slow occupies one connection; the others go on beside it.
        """
        sent = False
        running: dict[str, Future[bool]] = {}
        seen: set[str] = set()
        ends_at = time.monotonic() + self.round_seconds
        most = self.runtime.settings.webhook_connections
        with ThreadPoolExecutor(most, thread_name_prefix="webhook") as threads:
            while True:
                for webhook_id in [one for one, future in running.items() if future.done()]:
                    progress = self._ended(webhook_id, running.pop(webhook_id))
                    sent |= progress
                    if not progress:
                        seen.add(webhook_id)  # another worker has it, or it waits
                if time.monotonic() < ends_at and not self.runtime.stop.is_set():
                    for webhook_id in self._due():
                        if webhook_id not in running | dict.fromkeys(seen) and len(running) < most:
                            running[webhook_id] = threads.submit(self._turn, webhook_id)
                if not running:
                    return sent
                wait(
                    running.values(),
                    timeout=self.runtime.settings.poll_seconds,
                    return_when=FIRST_COMPLETED,
                )

    def _due(self) -> list[str]:
        with self.runtime.session() as session:
            return outbox.due(db.read_only(session), now=self._now())

    def _ended(self, webhook_id: str, turn: Future[bool]) -> bool:
        try:
            return turn.result()
        except leases.LeaseLost:
            log.info("webhook %s was taken over by another worker", webhook_id)
        except NotOpened as error:
            log.error("webhook %s: %s", webhook_id, error)
        return False

    def _turn(self, webhook_id: str) -> bool:
        """Deliver to one webhook, in order; return whether it was told anything."""
        work = self._next(webhook_id)
        if work is None:
            return False
        if not work.events:
            with self.runtime.session() as session:
                outbox.skip(session, work)
            return True
        with self.runtime.session() as session:
            held = leases.acquire(
                session,
                endpoints.lease_of(webhook_id),
                owner=self.runtime.owner,
                seconds=self._lease_seconds,
                now=self._now(),
            )
        if held is None:
            return False
        with self.runtime.giving_back(held):
            return self._deliver(webhook_id, held)

    def _deliver(self, webhook_id: str, held: leases.Held) -> bool:
        sent, goes_on = False, True
        ends_at = time.monotonic() + self.turn_seconds
        while goes_on and time.monotonic() < ends_at and not self.runtime.stop.is_set():
            work = self._next(webhook_id)
            if work is None:
                break
            if not work.events:
                with self.runtime.session() as session:
                    outbox.skip(session, work)
                continue
            sent, goes_on = True, self._tell(work, held, ends_at)
        return sent

    def _tell(self, work: Work, held: leases.Held, ends_at: float) -> bool:
        """Deliver the events of ``work`` up to the first failure; return whether to go on."""
        stands_at, attempts = work.seq, list[Attempt]()
        recorded = time.monotonic()
        for number, event in enumerate(work.events, start=1):
            self._pace(work.webhook_id)
            attempts.append(self._attempt(work, event))
            reach("webhooks.sent")
            ends = (
                attempts[-1].error is not None
                or number == len(work.events)
                or self.runtime.stop.is_set()
                or time.monotonic() > ends_at
            )
            aged = time.monotonic() - recorded > RECORDED_AFTER_SECONDS
            if not (ends or aged or len(attempts) >= RECORDED_AT_ONCE):
                continue
            told_all = number == len(work.events) and attempts[-1].error is None
            reached = work.until if told_all else _last_told(attempts, stands_at)
            if not self._record(work, attempts, held, stands_at, reached):
                return False
            stands_at, attempts, recorded = reached, [], time.monotonic()
            if ends:
                break
        return True

    def _pace(self, webhook_id: str) -> None:
        """Wait until the webhook may be sent another event, or this worker stops.

        A burst of requests is neither passed on to the receiver at once, nor does delivering it
        take the processor from those who answer the requests.
        """
        self.runtime.stop.wait(max(self._free_at.get(webhook_id, 0.0) - time.monotonic(), 0.0))
        self._free_at[webhook_id] = time.monotonic() + 1 / self.runtime.settings.webhook_rate

    def _attempt(self, work: Work, event: Event) -> Attempt:
        """Send one event to the address that its webhook has now, if it may go there."""
        at, begun = self._now(), time.monotonic()
        body = event.body
        headers = {
            "Content-Type": MEDIA_TYPE,
            "User-Agent": delivering.USER_AGENT,
            **signatures.headers(event.id, body, at=at, secrets=work.secrets),
        }
        outcome = delivering.deliver(
            work.url,
            body,
            headers,
            rules=Rules.from_settings(self.runtime.settings),
            lookup=self.lookup,
            seconds=self.runtime.settings.webhook_timeout_seconds,
        )
        error = outcome.error
        if error is not None:
            log.warning("webhook %s: %s was not delivered: %s", work.webhook_id, event.id, error)
        return Attempt(
            event,
            at,
            time.monotonic() - begun,
            answered=outcome.answered,
            error=error,
            retry_after=outcome.retry_after,
        )

    def _record(
        self,
        work: Work,
        attempts: list[Attempt],
        held: leases.Held,
        stands_at: int,
        reached: int,
    ) -> bool:
        now = self._now()
        with self.runtime.session() as session:
            leases.renew(session, held, seconds=self._lease_seconds, now=now)
            return outbox.record(
                session,
                work.webhook_id,
                attempts,
                held=held,
                stands_at=stands_at,
                reached=reached,
                backoff=self.backoff,
                jitter=self.jitter(),
                sealer=self._sealer,
                now=now,
            )

    def _next(self, webhook_id: str) -> Work | None:
        with self.runtime.session() as session:
            return outbox.next_work(
                db.read_only(session), webhook_id, sealer=self._sealer, now=self._now()
            )

    def _now(self) -> datetime:
        return self.clock() if self.clock is not None else self.runtime.now()

    @property
    def _sealer(self) -> Sealer:
        return Sealer.from_settings(self.runtime.settings)

    @property
    def _lease_seconds(self) -> float:
        # It is renewed with each record, between two of which an attempt may wait for its turn and
        # then take its whole time.
        settings = self.runtime.settings
        attempt = 1 / settings.webhook_rate + settings.webhook_timeout_seconds
        return settings.lease_seconds + RECORDED_AFTER_SECONDS + attempt


def _last_told(attempts: list[Attempt], stands_at: int) -> int:
    told = [one.event.seq for one in attempts if one.error is None]
    return told[-1] if told else stands_at
