"""Tell the workers that there is something to do: a Celery task sent by name, after the commit.

A message is a hint. Workers look at the database on their own as well, so a message that is
never sent or never arrives costs seconds, not work.
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

    The sending is done by a thread of its own, so that neither a slow nor a dead broker is felt
    by a request.
    """

    def __init__(self, send: Callable[[str, str], None]) -> None:
        self._send = send
        self._wanted: set[tuple[str, str]] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._complained_at = -QUIET_SECONDS

    def deletions(self, model_id: int | None = None) -> None:
        """Say that deletion requests wait (of one model or of any)."""
        # Every message makes a worker look at all models: the id would only defeat coalescing.
        del model_id
        self._want(broker.RUN_BATCHES, broker.DELETIONS)

    def trainings(self) -> None:
        """Say that something waits that trains or prepares: a training run, a new live anchor."""
        self._want(broker.RUN_TRAININGS, broker.TRAININGS)

    def background(self) -> None:
        """Say that something else waits: an ingest, a purge."""
        self._want(broker.RUN_BACKGROUND, broker.BACKGROUND)

    def close(self) -> None:
        """Send what is still wanted and stop."""
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
        except Exception as error:  # whatever a broker does, the request was recorded
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
        # Left alone, the transport tries to connect for ever; the next call tries again anyway.
        broker_transport_options={**reached.transport_options, **_ONE_TRY},
        broker_connection_timeout=settings.broker_timeout_seconds,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
    )

    def send(task: str, queue: str) -> None:
        app.send_task(task, queue=queue, retry=False, ignore_result=True)

    return send
