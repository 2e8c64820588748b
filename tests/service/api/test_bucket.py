"""The API on a bucket of a real S3 server: what it serves and keeps, and what it says without."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from models_store import open_store, tensors
from tests import factories, s3
from tests.proxy import Proxy
from tests.s3 import Server
from tests.service.api import callers
from tests.service.api.callers import assert_problem

PATH = "/v1/models/reader/versions"
SECRETS = [value for name, value in s3.ENVIRONMENT.items() if "KEY" in name]


def weights(seed: int) -> dict[str, np.ndarray]:
    return {"0.weight": np.random.default_rng(seed).normal(size=(3, 64)).astype(np.float32)}


@pytest.fixture
def network(s3_environment: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", s3_environment.port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        yield proxy


@pytest.fixture
def app(
    network: Proxy, s3_environment: Server, sqlite_database: Engine, tmp_path: Path
) -> Iterator[FastAPI]:
    settings = callers.settings_on(sqlite_database, tmp_path).model_copy(
        update={"store_url": f"s3://{s3_environment.bucket()}/p", "store_timeout_seconds": 2.0}
    )
    saved = tensors.save(
        open_store(settings.store_location).blobs, weights(0), {}, kind="checkpoints"
    )
    with callers.application(settings) as running:
        with running.state.sessions() as session:
            data = factories.dataset(session, name="digits")
            model = factories.model(session, data, name="reader")
            factories.version(session, model, digest=saved.digest, size_bytes=saved.size_bytes)
            session.commit()
        callers.beat(running)
        yield running


def send(app: FastAPI, seed: int) -> object:
    return callers.client(app).post(
        PATH,
        content=safetensors.numpy.save(weights(seed)),
        headers={"Content-Type": "application/octet-stream"},
    )


def test_weights_are_served_whole_and_by_range(app: FastAPI) -> None:
    client = callers.client(app, "models:read")
    whole = client.get(f"{PATH}/1/checkpoint")
    assert whole.content == safetensors.numpy.save(weights(0))
    part = client.get(f"{PATH}/1/checkpoint", headers={"Range": "bytes=7-500"})
    assert part.status_code == 206
    assert part.content == whole.content[7:501]


def test_an_import_goes_into_the_bucket_and_leaves_nothing_on_the_disk(app: FastAPI) -> None:
    assert send(app, 1).status_code == 201  # type: ignore[attr-defined]
    settings = app.state.settings
    assert list(settings.scratch.iterdir()) == []
    assert not settings.store.exists()
    blobs = open_store(settings.store_location).blobs
    assert len(blobs.digests("checkpoints")) == 2


def test_a_bucket_that_is_away_is_503_and_readyz_says_so(
    app: FastAPI, network: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    door = TestClient(app)
    assert door.get("/readyz").json()["store"] == "usable"
    network.refuse()
    with caplog.at_level(logging.DEBUG):
        answers = [
            door.get("/readyz"),
            callers.client(app).get(f"{PATH}/1/checkpoint"),
            send(app, 1),
        ]
    assert answers[0].json()["store"] == "unreachable"
    assert_problem(answers[0], 503, "the store does not answer", "accepted and recorded")
    for answer in answers[1:]:
        assert_problem(answer, 503)
        assert int(answer.headers["Retry-After"]) > 0  # type: ignore[attr-defined]
    told = caplog.text + "".join(answer.text for answer in answers)  # type: ignore[attr-defined]
    assert "s3://" in caplog.text  # its operator is told where
    assert "s3://" not in answers[0].text
    assert not any(secret in told for secret in SECRETS)
    network.forward()
    assert door.get("/readyz").json()["store"] == "usable"
    assert send(app, 1).status_code == 201  # type: ignore[attr-defined]


def test_readyz_answers_in_time_of_a_bucket_that_is_silent(app: FastAPI, network: Proxy) -> None:
    network.swallow()
    began = time.monotonic()
    answer = TestClient(app).get("/readyz")
    assert time.monotonic() - began < 5.5
    assert_problem(answer, 503, "the store does not answer")


def test_a_bucket_that_does_not_exist_refuses(app: FastAPI) -> None:
    gone = app.state.settings.model_copy(update={"store_url": "s3://nobody-made-this"})
    with callers.application(gone) as other:
        answer = TestClient(other).get("/readyz")
    assert_problem(answer, 503, "the store refuses this process")
    assert answer.json()["store"] == "refused"
