"""The Celery application: ``celery -A workers.app worker`` and ``celery -A workers.app beat``.

Messages carry no work; they only announce that there may be some. The pool is one of threads,
because computation runs in child processes: nothing forks after torch was loaded, and a busy worker
still answers a ping.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from celery import Celery, signals
from kombu import entity

from service import broker, logs, tracing
from service.settings import Settings

if TYPE_CHECKING:
    from workers.schedule import heartbeat, lanes

#: kombu's classes have no types.
_Exchange: Any = entity.Exchange
_Queue: Any = entity.Queue

app = Celery("unlearn", include=["workers.tasks"])

_stop = threading.Event()
_lanes: dict[str, lanes.Lane] = {}
_heartbeats: list[heartbeat.Heartbeat] = []


def _configuration() -> dict[str, Any]:
    """Return Celery's configuration; called when Celery first needs it, not at import."""
    settings = Settings()
    reached = broker.configure(settings)
    beat_file = settings.state_dir.resolve() / "beat-schedule"
    return {
        "broker_url": reached.url,
        "broker_transport_options": reached.transport_options,
        "worker_enable_remote_control": reached.remote_control,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_connection_timeout": settings.broker_timeout_seconds,
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_ignore_result": True,
        # A lost message is harmless, because the database is polled anyway. One that has to be
        # acknowledged is not: a worker that loses Redis while it has one ends, as kombu then puts
        # it back over the connection that is closed.
        "task_queues": [
            _Queue(name, _Exchange(name), routing_key=name, no_ack=True) for name in broker.QUEUES
        ],
        "worker_pool": "threads",
        "worker_hijack_root_logger": False,
        "worker_send_task_events": False,
        "task_routes": {task: {"queue": name} for name, task in broker.QUEUES.items()},
        "beat_schedule_filename": str(beat_file),
        "beat_schedule": {
            name: {"task": task, "schedule": settings.beat_seconds}
            for name, task in broker.QUEUES.items()
        },
    }


app.add_defaults(_configuration)


def lane(name: str) -> lanes.Lane:
    """Return the worker's lane of that name (a queue's name)."""
    return _lanes[name]


@signals.celeryd_init.connect
def _leave_out_the_banner(instance: Any, **_: Any) -> None:
    if Settings().log_format == "json":
        instance.quiet = True


@signals.after_setup_logger.connect
def _set_up_logs(logger: logging.Logger, format: str, **_: Any) -> None:
    style = Settings().log_format
    logging.captureWarnings(style == "json")
    for handler in logger.handlers:
        handler.setFormatter(logs.formatter(style, format))
    # A wake-up message every few seconds would bury every other log line.
    for chatty in ("celery.app.trace", "celery.worker.strategy"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


@signals.worker_init.connect
def _open(**_: Any) -> None:
    # Imported here, because beat loads this module from an image without torch or readers.
    from service.ledger.registry import counts
    from workers.runtime import Runtime
    from workers.schedule import catalogue, heartbeat, lanes

    settings = Settings()
    tracing.start("unlearn-worker")
    counter = counts.Counter()
    for name in broker.QUEUES:
        _lanes[name] = lanes.make(
            name, Runtime.make(settings, stop=_stop, counter=counter, lane=name)
        )
    beating = heartbeat.Heartbeat(
        settings,
        _lanes[broker.DELETIONS].runtime.owner,
        lambda: {name: made.busy_since for name, made in _lanes.items()},
        lambda: not all(made.hangs() for made in _lanes.values()),
        counter,
    )
    _heartbeats.append(beating)
    # A worker counts as live once it has announced its capabilities: without them no model can be
    # created. Announcing also starts the compute process that the first deletion will need.
    first = _lanes[broker.DELETIONS]
    first.recipes = (catalogue.announcing_once(beating.start), *first.recipes)
    # Start now, not when the broker answers: polling finds work without the broker.
    for made in _lanes.values():
        made.start_polling()


@signals.worker_shutting_down.connect
def _asked_to_stop(**_: Any) -> None:
    _stop.set()
    for made in _lanes.values():
        made.runtime.stopped_at = time.monotonic()


@signals.worker_shutdown.connect
def _close(**_: Any) -> None:
    _stop.set()
    for made in _lanes.values():
        made.close()
    for beating in _heartbeats:
        beating.close()
    tracing.stop()
