"""Celery's broker. Its messages only wake workers up; losing one loses no work."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from kombu.connection import Connection
from redis.backoff import NoBackoff
from redis.retry import Retry

from service import message_files
from service.settings import Settings

DELETIONS = "deletions"
TRAININGS = "trainings"
BACKGROUND = "background"
EVENTS = "events"
RUN_BATCHES = "workers.tasks.run_batches"
RUN_TRAININGS = "workers.tasks.run_trainings"
RUN_BACKGROUND = "workers.tasks.run_background"
RUN_EVENTS = "workers.tasks.run_events"

#: The queue of each lane and the task that wakes it.
QUEUES = {
    DELETIONS: RUN_BATCHES,
    TRAININGS: RUN_TRAININGS,
    BACKGROUND: RUN_BACKGROUND,
    EVENTS: RUN_EVENTS,
}


@dataclass(frozen=True)
class Broker:
    """Celery's settings for reaching the broker."""

    url: str
    transport_options: dict[str, Any]
    #: Whether ``celery inspect`` works over it.
    remote_control: bool


def configure(settings: Settings) -> Broker:
    """Return the broker of the settings; the default is files in the state directory, made here."""
    if settings.broker_url:
        return Broker(settings.broker_url, _network_options(settings), remote_control=True)
    folder = settings.state_dir.resolve() / "broker"
    folders = {name: str(folder / name) for name in ("messages", "processed")}
    for path in folders.values():
        Path(path).mkdir(parents=True, exist_ok=True)
    message_files.register()
    return Broker(
        f"{message_files.SCHEME}://localhost",
        {
            # Readers and writers must share one folder for messages to arrive.
            "data_folder_in": folders["messages"],
            "data_folder_out": folders["messages"],
            "processed_folder": folders["processed"],
            # Seconds between two reads of the folder; the default of 1 would delay deletions.
            "polling_interval": 0.2,
        },
        remote_control=False,
    )


def answers(settings: Settings) -> bool:
    """Return whether the broker accepts messages now."""
    reached = configure(settings)
    if not settings.broker_url:
        return os.access(reached.transport_options["data_folder_out"], os.W_OK | os.X_OK)
    seconds = settings.broker_timeout_seconds
    if reached.url.startswith(("redis:", "rediss:")):
        # Not over kombu, which would wait for a silent server several times.
        with redis.Redis.from_url(
            reached.url,
            socket_timeout=seconds,
            socket_connect_timeout=seconds,
            retry=Retry(NoBackoff(), 0),
        ) as client:
            return bool(client.ping())
    connect: Any = Connection  # without types
    with connect(reached.url, transport_options=reached.transport_options) as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=seconds)
    return True


def _network_options(settings: Settings) -> dict[str, Any]:
    return {
        # A silent connection must block neither a worker nor an API process.
        "socket_timeout": settings.broker_timeout_seconds,
        "socket_connect_timeout": settings.broker_timeout_seconds,
        "socket_keepalive": True,
    }
