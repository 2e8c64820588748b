"""Limits of the door, each with the right status."""

from __future__ import annotations

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


@pytest.fixture
def app(settings: Settings) -> Iterator[FastAPI]:
    with callers.application(settings) as running:
        yield running


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
    while answer.status_code == 200:  # a slow machine may have earned another call
        answer = hasty.get("/v1/audit/events")
    assert_problem(answer, 429, "60 calls per minute")
    assert int(answer.headers["Retry-After"]) >= 1
    assert calm.get("/v1/audit/events").status_code == 200
    assert TestClient(app).get("/healthz").status_code == 200


def test_the_bucket_refills_steadily() -> None:
    now = 0.0
    limiter = limits.Limiter(30, clock=lambda: now)
    for _ in range(30):
        limiter.take("key")
    with pytest.raises(TooManyRequests) as refusal:
        limiter.take("key")
    assert refusal.value.retry_after_seconds == 2
    now = 2.0
    limiter.take("key")
    with pytest.raises(TooManyRequests):
        limiter.take("key")
    now = 1000.0
    for _ in range(30):
        limiter.take("key")
    with pytest.raises(TooManyRequests):
        limiter.take("key")


def test_no_limit_means_no_limit() -> None:
    limiter = limits.Limiter(0)
    for _ in range(1000):
        limiter.take("key")
