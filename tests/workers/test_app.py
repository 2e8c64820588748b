"""How a worker takes its messages from the broker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from celery import Celery

from service import broker
from tests.proxy import Proxy
from workers import app as workers_app


@pytest.fixture
def network(redis_url: str) -> Iterator[Proxy]:
    host, port = redis_url.partition("://")[2].partition("/")[0].split(":")
    with Proxy(host, int(port)) as proxy:
        yield proxy


@pytest.fixture
def app(redis_url: str, network: Proxy, monkeypatch: pytest.MonkeyPatch) -> Celery:
    database = redis_url.rpartition("/")[2]
    monkeypatch.setenv("UNLEARN_BROKER_URL", f"redis://127.0.0.1:{network.port}/{database}")
    made = Celery("worker-of-a-test")
    made.add_defaults(workers_app._configuration)
    return made


def test_connection_that_is_lost_in_mid_work_has_no_message_to_put_back(
    app: Celery, redis_url: str, network: Proxy
) -> None:
    app.send_task(broker.RUN_BATCHES, queue=broker.DELETIONS)
    app.amqp.queues.select([broker.DELETIONS])  # as the option -Q does
    taken: list[object] = []
    connection = app.connection_for_read()
    channel = connection.channel()
    consumer = app.amqp.TaskConsumer(channel, on_message=taken.append)
    with consumer:
        while not taken:
            connection.drain_events(timeout=10)
        with redis.Redis.from_url(redis_url) as client:
            assert client.keys("unacked*") == []
        network.cut()
    # What Celery does before it connects again.
    connection.close()
