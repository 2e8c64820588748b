"""Limits of the API, each with the right status."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from service.api import limits
from service.errors import TooManyRequests
from service.settings import Settings
from tests.service.api import callers
from tests.service.api.callers import assert_problem

URL = "/v1/deletion-requests"
JSON = {"content-type": "application/json"}


@pytest.fixture
def database(sqlite_database: Engine) -> Engine:
    return sqlite_database


@pytest.fixture
def settings(settings: Settings) -> Settings:
    changes = {"max_body_bytes": 1000, "max_upload_bytes": 5000, "requests_per_minute": 60}
    return settings.model_copy(update=changes)


def test_a_body_over_the_limit_is_refused_by_its_announced_length(app: FastAPI) -> None:
    client = callers.client(app)
    answer = client.post(URL, content=b" " * 1001, headers=JSON)
    assert_problem(answer, 413, "1000 bytes")
    assert_problem(client.post(URL, content=b" " * 1000, headers=JSON), 400)


def test_a_body_without_a_length_is_counted_while_it_comes(app: FastAPI) -> None:
    sent: list[int] = []

    def endless() -> Iterator[bytes]:
        while True:
            sent.append(1)
            yield b" " * 500
            if len(sent) > 10:
                return

    answer = callers.client(app).post(URL, content=endless(), headers=JSON)
    assert_problem(answer, 413, "1000 bytes")


def test_an_upload_has_a_limit_of_its_own(app: FastAPI) -> None:
    client = callers.client(app)
    kind = {"content-type": "application/octet-stream"}
    path = "/v1/models/unknown/versions"
    assert_problem(client.post(path, content=b"x" * 5001, headers=kind), 413, "5000 bytes")
    assert client.post(path, content=b"x" * 4000, headers=kind).status_code == 404


def test_calls_over_the_rate_are_refused_per_key(app: FastAPI) -> None:
    hasty, calm = callers.client(app), callers.client(app)
    statuses = [hasty.get("/v1/audit/events").status_code for _ in range(61)]
    assert statuses[:60] == [200] * 60
    answer = hasty.get("/v1/audit/events")
    while answer.status_code == 200:  # calls before a slow minute's end have left the window
        answer = hasty.get("/v1/audit/events")
    assert_problem(answer, 429, "60 calls per minute")
    assert int(answer.headers["Retry-After"]) >= 1
    assert calm.get("/v1/audit/events").status_code == 200
    assert TestClient(app).get("/healthz").status_code == 200


def exhaust(limiter: limits.Limiter, calls: int) -> None:
    for _ in range(calls):
        limiter.take("key")
    with pytest.raises(TooManyRequests, match=f"{calls} looks per minute") as refusal:
        limiter.take("key")
    assert 1 <= refusal.value.retry_after_seconds <= 60


def test_each_key_has_its_own_limit_and_no_limit_is_none(settings: Settings) -> None:
    limiter = limits.Limiter(30, settings, what="looks")
    exhaust(limiter, 30)
    limiter.take("another key")
    unlimited = limits.Limiter(0, settings)
    for _ in range(1000):
        unlimited.take("key")


def test_processes_that_share_a_redis_count_together(settings: Settings, redis_url: str) -> None:
    shared = settings.model_copy(update={"broker_url": redis_url})
    first, second = (limits.Limiter(30, shared, what="looks") for _ in range(2))
    for _ in range(20):
        first.take("key")
    for _ in range(10):
        second.take("key")
    for limiter in (first, second):
        with pytest.raises(TooManyRequests):
            limiter.take("key")
    limits.Limiter(30, shared, what="calls").take("key")  # of another kind


def test_without_its_redis_a_process_counts_for_itself(
    settings: Settings, dead_redis: str, caplog: pytest.LogCaptureFixture
) -> None:
    limiter = limits.Limiter(
        30, settings.model_copy(update={"broker_url": dead_redis}), what="looks"
    )
    exhaust(limiter, 30)
    assert [record.message for record in caplog.records] == [
        "counting calls in this process alone: ConnectionError"
    ]


@pytest.fixture
def dead_redis() -> Iterator[str]:
    """An address on which nothing listens while the test holds it."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"redis://127.0.0.1:{held.getsockname()[1]}/0"
