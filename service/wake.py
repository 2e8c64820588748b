"""Wake the workers: send a Celery task by name, after the commit.

A message is a hint. Workers poll the database as well, so a message that is never sent or never
arrives costs seconds, not work.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from celery import Celery

from service import broker
from service.settings import Settings

MIN_PAUSE_SECONDS = 0.1
QUIET_SECONDS = 60.0

_ONE_TRY = {"max_retries": 1, "interval_start": 0.0, "interval_step": 0.1, "interval_max": 0.1}

log = logging.getLogger("service.wake")


class Wake:
    """Sends at most one message per kind and pause; a burst of calls becomes one message.

    A thread of its own sends them, so that a slow or dead broker does not delay a request.
    """

    def __init__(self, send: Callable[[str, str], None]) -> None:
        self._send = send
        self._wanted: set[tuple[str, str]] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._complained_at = -QUIET_SECONDS

    def deletions(self, model_id: int | None = None) -> None:
        """Announce that deletion requests wait (of one model or of any)."""
        # Every message makes a worker check all models: the id would only prevent coalescing.
        del model_id
        self._want(broker.RUN_BATCHES, broker.DELETIONS)

    def trainings(self) -> None:
        """Announce work that trains or prepares: a training run, a new live anchor."""
        self._want(broker.RUN_TRAININGS, broker.TRAININGS)

    def background(self) -> None:
        """Announce other work: an ingest, a purge."""
        self._want(broker.RUN_BACKGROUND, broker.BACKGROUND)

    def events(self) -> None:
        """Announce an event for webhooks."""
        self._want(broker.RUN_EVENTS, broker.EVENTS)

    def close(self) -> None:
        """Send pending messages and stop."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout=2.0)

    def _want(self, task: str, queue: str) -> None:
        with self._changed:
            self._wanted.add((task, queue))
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="wake", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted or self._closed)
                wanted, self._wanted = self._wanted, set()
                closed = self._closed
            for task, queue in sorted(wanted):
                self._try(task, queue)
            if closed:
                return
            time.sleep(MIN_PAUSE_SECONDS)

    def _try(self, task: str, queue: str) -> None:
        try:
            self._send(task, queue)
        except Exception as error:  # the request is recorded, whatever the broker does
            if time.monotonic() - self._complained_at > QUIET_SECONDS:
                self._complained_at = time.monotonic()
                log.warning(
                    "no message to the workers (%s); they find the work when they look themselves",
                    type(error).__name__,
                )


def sender(settings: Settings) -> Wake:
    """Return a ``Wake`` on the broker of the settings."""
    return Wake(_celery_send(settings))


def _celery_send(settings: Settings) -> Callable[[str, str], None]:
    reached = broker.configure(settings)
    app = Celery("unlearn", broker=reached.url, set_as_current=False)
    app.conf.update(
        # By default the transport retries for ever; the next call tries again anyway.
        broker_transport_options={**reached.transport_options, **_ONE_TRY},
        broker_connection_timeout=settings.broker_timeout_seconds,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
    )

    def send(task: str, queue: str) -> None:
        app.send_task(task, queue=queue, retry=False, ignore_result=True)

    return send
