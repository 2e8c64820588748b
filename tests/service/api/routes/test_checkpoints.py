"""Downloads of weights: whole, in ranges, conditional, and refused."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from fastapi import FastAPI
from sqlalchemy import Engine, select

from models_store import open_store
from service.api import auth
from service.api.routes import checkpoints as door
from service.ledger.database.states import VersionStatus
from service.ledger.database.tables import Version
from service.ledger.registry import models
from tests import factories
from tests.service.api import callers
from tests.service.api.callers import assert_problem
from tests.stored import blob_file, save

PATH = "/v1/models/reader/versions/1/checkpoint"


@pytest.fixture
def app(sqlite_database: Engine, tmp_path: Path) -> Iterator[FastAPI]:
    settings = callers.settings_on(sqlite_database, tmp_path)
    tensors = {"0.weight": np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)}
    saved = save(settings.store, tensors, {})
    with callers.application(settings) as running:
        with running.state.sessions() as session:
            data = factories.dataset(session, name="digits")
            model = factories.model(session, data, name="reader")
            factories.version(session, model, digest=saved.digest, size_bytes=saved.size_bytes)
            session.commit()
        yield running


def _stored(app: FastAPI) -> bytes:
    with app.state.sessions() as session:
        digest = session.scalars(select(Version.digest)).one()
    return blob_file(app.state.settings.store, digest).read_bytes()


def test_the_whole_file_comes_with_its_digests(app: FastAPI) -> None:
    answer = callers.client(app, "models:read").get(PATH)
    stored = _stored(app)
    assert answer.content == stored
    assert safetensors.numpy.load(answer.content)["0.weight"].shape == (3, 64)
    digest = hashlib.sha256(stored)
    assert answer.headers["ETag"] == f'"{digest.hexdigest()}"'
    field = f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
    assert answer.headers["Repr-Digest"] == answer.headers["Content-Digest"] == field
    assert answer.headers["Content-Length"] == str(len(stored))
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Content-Type"] == "application/vnd.safetensors"


def test_a_file_that_the_client_has_is_not_sent_again(app: FastAPI) -> None:
    client = callers.client(app, "models:read")
    etag = client.get(PATH).headers["ETag"]
    for value in (etag, f'"x", {etag}', f"W/{etag}", "*"):
        answer = client.get(PATH, headers={"If-None-Match": value})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["ETag"] == etag
    assert client.get(PATH, headers={"If-None-Match": '"x"'}).status_code == 200


def test_one_range_is_served(app: FastAPI) -> None:
    client = callers.client(app, "models:read")
    stored = _stored(app)
    size = len(stored)
    for wanted, start, stop in (
        ("0-0", 0, 1),
        ("5-9", 5, 10),
        ("10-", 10, size),
        ("-4", size - 4, size),
        (f"0-{size * 10}", 0, size),
        (f"-{size * 10}", 0, size),
    ):
        answer = client.get(PATH, headers={"Range": f"bytes={wanted}"})
        assert answer.status_code == 206
        assert answer.content == stored[start:stop]
        assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{size}"
        assert answer.headers["Content-Length"] == str(stop - start)
        assert "Content-Digest" not in answer.headers


def test_a_range_outside_the_file_is_refused_and_one_that_is_not_read_is_passed_over(
    app: FastAPI,
) -> None:
    client = callers.client(app, "models:read")
    size = len(_stored(app))
    for wanted in (f"bytes={size}-", f"bytes={size * 2}-{size * 3}", "bytes=-0"):
        refused = client.get(PATH, headers={"Range": wanted})
        assert_problem(refused, 416)
        assert refused.headers["Content-Range"] == f"bytes */{size}"
    for wanted in ("bytes=0-1,3-4", "lines=1-2", "bytes=", "bytes=-", "bytes=9-5", "nonsense"):
        assert client.get(PATH, headers={"Range": wanted}).status_code == 200


def test_a_range_of_another_file_is_answered_with_the_whole_file(app: FastAPI) -> None:
    client = callers.client(app, "models:read")
    etag = client.get(PATH).headers["ETag"]
    same = client.get(PATH, headers={"Range": "bytes=0-3", "If-Range": etag})
    assert same.status_code == 206
    other = client.get(PATH, headers={"Range": "bytes=0-3", "If-Range": '"other"'})
    assert (other.status_code, other.content) == (200, _stored(app))


def test_a_version_with_forgotten_records_is_not_handed_out(app: FastAPI) -> None:
    with app.state.sessions() as session:
        model = models.get(session, "reader")
        data = session.get_one(factories.Dataset, model.dataset_id)
        base = models.production(session, model)
        assert base is not None
        asked = factories.request(session, data, rows=[2])
        session.get_one(factories.Record, (data.id, 2)).excluded_revision = 1
        factories.unlearned(session, model, base, [asked])
        session.commit()
        expected = asked.id
    refused = callers.client(app, "models:read").get(PATH)
    assert_problem(refused, 409, expected, "would-resurrect")


@pytest.mark.parametrize(
    ("status", "code"),
    [(VersionStatus.RETIRED, 409), (VersionStatus.REJECTED, 409), (VersionStatus.PURGED, 410)],
)
def test_withdrawn_versions_are_not_handed_out(
    app: FastAPI, status: VersionStatus, code: int
) -> None:
    with app.state.sessions() as session:
        session.scalars(select(Version)).one().status = status
        session.commit()
    assert_problem(callers.client(app, "models:read").get(PATH), code)


def test_a_file_that_is_missing_from_the_store_is_said_to_be_unavailable(app: FastAPI) -> None:
    with app.state.sessions() as session:
        digest = session.scalars(select(Version.digest)).one()
    open_store(app.state.settings.store).blobs.delete("checkpoints", digest)
    assert_problem(callers.client(app).get(PATH), 503)


def test_no_transaction_stays_open_while_a_file_is_sent(app: FastAPI) -> None:
    caller = auth.Principal("key_test", frozenset({"models:read"}))
    with app.state.sessions() as session:
        answer = door.download("reader", 1, caller, session, app.state.store)
        assert answer.status_code == 200  # the body is read later
        assert not session.in_transaction()


def test_downloads_need_the_scope(app: FastAPI) -> None:
    assert_problem(callers.client(app, "models:write").get(PATH), 403)
    assert_problem(callers.client(app).get(PATH.replace("/1/", "/9/")), 404)
