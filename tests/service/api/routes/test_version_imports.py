"""Versions over HTTP that were trained elsewhere: what is taken, and when it goes live."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from fastapi import FastAPI
from sqlalchemy import select

from models_store import open_store
from service.ledger.database.states import ErasureStatus
from service.ledger.database.tables import AuditEvent, Dataset, Erasure, Version
from service.ledger.registry import models
from service.ledger.requests import lookup
from service.settings import Settings
from tests import factories
from tests.service.api import callers, reader
from tests.service.api.callers import assert_problem
from tests.service.api.reader import ALIAS, BINARY, PATH, forget, post, weights
from tests.stored import blob_file, load


@pytest.fixture
def app(settings: Settings) -> Iterator[FastAPI]:
    with reader.application(settings) as running:
        yield running


def test_an_import_is_stored_as_it_was_sent_and_goes_live_first(app: FastAPI) -> None:
    client = callers.client(app, "models:write", "models:read", "models:promote")
    sent = weights()
    answer = post(client, sent)
    assert answer.status_code == 201, answer.text
    assert answer.headers["Location"] == f"{PATH}/1"
    assert int(answer.headers["Retry-After"]) > 0
    assert client.get(f"{PATH}/1").json() == answer.json()
    assert (answer.json()["status"], answer.json()["is_production"]) == ("candidate", False)
    assert "waits for a worker" in answer.json()["status_reason"]
    assert_problem(client.get(f"{PATH}/1/verification"), 404, "measured by a worker")
    callers.measured(app, 1)
    shown = client.get(f"{PATH}/1").json()
    assert (shown["origin"], shown["status"], shown["is_production"]) == (
        "imported",
        "published",
        True,
    )
    assert (shown["verdict"], shown["status_reason"]) == ("imported", None)
    assert client.get(f"{PATH}/1/verification").json()["verdict"] == "imported"
    assert (shown["anchor"], shown["parent"], shown["size_bytes"]) == (1, None, len(sent))
    store = app.state.settings.store
    assert blob_file(store, shown["digest"]).read_bytes() == sent
    np.testing.assert_array_equal(
        load(store, shown["digest"])["0.weight"],
        safetensors.numpy.load(sent)["0.weight"],
    )
    assert list((store / "uploads").iterdir()) == []
    with app.state.sessions() as session:
        lines = session.scalars(select(AuditEvent).order_by(AuditEvent.seq))
        actions = [line.action for line in lines if line.subject == "version:reader/1"]
    assert actions == [
        "version:registered",
        "version:imported",
        "version:verified",
        "version:promoted",
    ]


def test_an_import_that_the_rules_refuse_says_why_and_is_not_handed_out(app: FastAPI) -> None:
    client = callers.client(app)
    post(client, weights())
    callers.measured(app, 1, verdict="failed", reasons=["chance: accuracy 0.1, not above chance"])
    shown = client.get(f"{PATH}/1").json()
    assert (shown["status"], shown["verdict"], shown["is_production"]) == (
        "rejected",
        "failed",
        False,
    )
    assert "not above chance" in shown["status_reason"]
    assert_problem(client.get(f"{PATH}/1/checkpoint"), 409, "rejected")
    assert_problem(client.put(ALIAS, json={"version": 1}), 409)


def test_an_import_cannot_go_live_before_it_is_measured(app: FastAPI) -> None:
    client = callers.client(app)
    post(client, weights())
    refused = client.put(ALIAS, json={"version": 1})
    assert_problem(refused, 409, "still to be measured", f"{PATH}/1")
    assert int(refused.headers["Retry-After"]) > 0
    callers.measured(app, 1, mark="unconfirmed_rows")
    assert client.get(f"{PATH}/1").json()["mark"] == "unconfirmed_rows"


def test_a_second_import_goes_live_only_when_asked(app: FastAPI) -> None:
    client = callers.client(app)
    post(client, weights(0))
    callers.measured(app, 1)
    client.post(PATH, content=weights(1), headers={"Content-Type": "application/vnd.safetensors"})
    callers.measured(app, 2)
    second = client.get(f"{PATH}/2").json()
    assert (second["number"], second["is_production"], second["status"]) == (2, False, "published")
    post(client, weights(2), promote="true")
    callers.measured(app, 3)
    assert client.get("/v1/models/reader").json()["production"] == 3
    post(client, weights(3), promote="false")
    callers.measured(app, 4)
    assert client.get("/v1/models/reader").json()["production"] == 3


def test_import_goes_live_only_for_a_key_that_may_promote(app: FastAPI) -> None:
    writer = callers.client(app, "models:write", "models:read")
    assert_problem(post(writer, weights(), promote="true"), 403, "models:promote")
    store: Path = app.state.settings.store
    assert [file for file in store.rglob("*") if file.is_file()] == []  # refused unread
    for number, asked in enumerate(({}, {"promote": "false"}), start=1):
        assert post(writer, weights(), **asked).status_code == 201
        callers.measured(app, number)
        made = writer.get(f"{PATH}/{number}").json()
        assert (made["is_production"], made["status"]) == (False, "published")
    assert writer.get("/v1/models/reader").json()["production"] is None
    promoter = callers.client(app, "models:write", "models:promote")
    for number, asked in ((3, {}), (4, {"promote": "true"})):
        assert post(promoter, weights(number), **asked).status_code == 201
        callers.measured(app, number)
        assert writer.get(f"{PATH}/{number}").json()["is_production"]


def test_the_same_file_may_be_imported_twice(app: FastAPI) -> None:
    client = callers.client(app)
    first, second = (post(client, weights()).json() for _ in range(2))
    assert first["digest"] == second["digest"]
    assert [first["number"], second["number"]] == [1, 2]


def test_a_file_that_does_not_fit_is_refused_with_reasons_and_leaves_nothing(app: FastAPI) -> None:
    client = callers.client(app)
    narrow = {"0.weight": np.zeros((3, 63), np.float32)}
    double = {"0.weight": np.zeros((3, 64), np.float64)}
    infinite = {"0.weight": np.full((3, 64), np.inf, np.float32)}
    more = {"1.bias": np.zeros(3, np.float32)}
    for content, word in (
        (b"", "safetensors"),
        (b"\x80\x04pickle", "safetensors"),
        (b"x" * 1000, "safetensors"),
        (weights()[:-5], "cut short"),
        (weights(**narrow), "shape"),
        (weights(**double), "dtype"),
        (weights(**infinite), "NaN or infinity"),
        (weights(**more), "unexpected"),
        (safetensors.numpy.save(more), "missing"),
    ):
        assert_problem(post(client, content), 422, word)
    assert client.get(PATH).json()["items"] == []
    store: Path = app.state.settings.store
    assert [file for file in store.rglob("*") if file.is_file()] == []


def test_a_tied_tensor_is_taken_under_one_name_and_refused_with_two_values(app: FastAPI) -> None:
    with app.state.sessions() as session:
        data = session.scalars(select(Dataset)).one()
        spec = {name: [[8, 4], "float32"] for name in ("embed.weight", "out.weight")}
        ties = [["embed.weight", "out.weight"]]
        factories.model(session, data, name="tied", parameters=spec, tied=ties)
        session.commit()
    client = callers.client(app)
    assert client.get("/v1/models/tied").json()["tied"] == ties
    path = "/v1/models/tied/versions"
    values = np.ones((8, 4), np.float32)
    differ = {"embed.weight": values, "out.weight": 2 * values}
    refused = client.post(path, content=safetensors.numpy.save(differ), headers=BINARY)
    assert_problem(refused, 422, "one tensor", "embed.weight", "out.weight")
    once = client.post(path, content=safetensors.numpy.save({"out.weight": values}), headers=BINARY)
    assert once.status_code == 201, once.text


def test_uploads_have_a_type_and_a_size(settings: Settings) -> None:
    small = settings.model_copy(update={"max_upload_bytes": 500})
    with callers.application(small) as app:
        with app.state.sessions() as session:
            factories.model(session, factories.dataset(session), name="reader")
            session.commit()
        client = callers.client(app)
        assert_problem(post(client, weights()), 413)
        pieces = (piece for piece in [weights()[:400], weights()[400:]])
        assert_problem(client.post(PATH, content=pieces, headers=BINARY), 413)
        for kind in ("application/json", "text/plain", "multipart/form-data; boundary=x"):
            answer = client.post(PATH, content=b"{}", headers={"Content-Type": kind})
            assert_problem(answer, 415, "octet-stream")
        assert list((small.store / "uploads").glob("*")) == []


def test_leftovers_of_killed_uploads_go_once_they_are_old(app: FastAPI) -> None:
    uploads = app.state.settings.store / "uploads"
    uploads.mkdir(parents=True)
    for name, age in (("old.part", 10 * 3600), ("young.part", 0)):
        (uploads / name).write_bytes(b"half")
        then = time.time() - age
        os.utime(uploads / name, (then, then))
    assert post(callers.client(app), weights()).status_code == 201
    assert [file.name for file in uploads.iterdir()] == ["young.part"]


def test_a_store_that_cannot_be_written_is_said_to_be_unavailable(app: FastAPI) -> None:
    store: Path = app.state.settings.store
    store.mkdir(parents=True)
    (store / "uploads").write_bytes(b"in the way")
    refused = post(callers.client(app), weights())
    assert_problem(refused, 503, "store")
    assert int(refused.headers["Retry-After"]) > 0
    assert str(store) not in refused.text
    (store / "uploads").unlink()
    (store / "checkpoints").write_bytes(b"in the way")
    assert_problem(post(callers.client(app), weights()), 503, "store")
    assert callers.client(app).get(PATH).json()["items"] == []


def test_a_model_that_no_worker_has_seen_takes_no_import_yet(app: FastAPI) -> None:
    with app.state.sessions() as session:
        data = session.scalars(select(Dataset)).one()
        factories.model(session, data, name="new", parameters=None)
        factories.model(session, data, name="bad", parameters=None, error="too small")
        session.commit()
    client = callers.client(app)
    waiting = client.post("/v1/models/new/versions", content=weights(), headers=BINARY)
    assert_problem(waiting, 409, "prepared")
    assert int(waiting.headers["Retry-After"]) > 0
    refused = client.post("/v1/models/bad/versions", content=weights(), headers=BINARY)
    assert_problem(refused, 409, "too small")
    missing = client.post("/v1/models/nobody/versions", content=weights(), headers=BINARY)
    assert_problem(missing, 404)


def test_an_import_may_not_bring_back_what_was_forgotten(app: FastAPI) -> None:
    with app.state.sessions() as session:
        asked = forget(session, rows=[2], revision=1)
        session.commit()
    client = callers.client(app)
    refused = post(client, weights())
    assert_problem(refused, 409, asked, "data_revision=1", "would-resurrect")
    assert client.get(PATH).json()["items"] == []
    assert post(client, weights(), data_revision=1).status_code == 201
    assert_problem(post(client, weights(), data_revision=2), 422, "data_revision")
    assert_problem(post(client, weights(), data_revision=-1), 422)
    assert_problem(post(client, weights(), data_revision=2**31), 422)


def test_weights_known_to_hold_forgotten_records_are_refused_whatever_is_said_of_them(
    app: FastAPI,
) -> None:
    client = callers.client(app)
    digest = post(client, weights()).json()["digest"]
    with app.state.sessions() as session:
        asked = forget(session, rows=[2], revision=1)
        session.commit()
    open_store(app.state.settings.store).blobs.delete("checkpoints", digest)
    assert_problem(post(client, weights(), data_revision=1), 409, asked, "version 1 of reader")
    assert not open_store(app.state.settings.store).blobs.exists("checkpoints", digest)
    assert post(client, weights(1), data_revision=1).status_code == 201


def test_a_deletion_that_a_batch_has_claimed_counts_as_forgotten(app: FastAPI) -> None:
    with app.state.sessions() as session:
        asked = forget(session, rows=[2], revision=1)
        model = models.get(session, "reader")
        request = lookup.get(session, asked)
        factories.erasure(session, request, model, status=ErasureStatus.CLAIMED)
        session.commit()
    assert_problem(post(callers.client(app), weights()), 409, asked)


def test_forgotten_rows_that_are_never_trained_on_hinder_no_import(app: FastAPI) -> None:
    with app.state.sessions() as session:
        forget(session, rows=[8, 9], revision=1)
        session.commit()
    assert post(callers.client(app), weights()).status_code == 201


def test_requests_that_wait_concern_an_imported_version(app: FastAPI) -> None:
    with app.state.sessions() as session:
        data = session.scalars(select(Dataset)).one()
        asked = factories.request(session, data, rows=[1]).id
        session.commit()
    assert post(callers.client(app), weights()).status_code == 201
    with app.state.sessions() as session:
        shares = session.scalars(select(Erasure)).all()
        assert [(one.request_id, one.status) for one in shares] == [(asked, "pending")]


def test_only_writers_import(app: FastAPI) -> None:
    assert_problem(post(callers.client(app, "models:read"), weights()), 403)
    with app.state.sessions() as session:
        assert session.scalars(select(Version)).all() == []
