"""Versions over HTTP: imports, lists, lineage, verification and the alias production."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select

from models_store import open_store
from service.ledger.database.states import ErasureStatus, VersionStatus
from service.ledger.database.tables import AuditEvent, Dataset, Erasure, Version
from service.ledger.registry import models, versions
from service.ledger.requests import lookup
from service.settings import Settings
from tests import factories
from tests.service.api import callers
from tests.service.api.callers import assert_problem
from tests.stored import blob_file, load

PATH = "/v1/models/reader/versions"
BINARY = {"Content-Type": "application/octet-stream"}


@pytest.fixture
def app(settings: Settings) -> Iterator[FastAPI]:
    with callers.application(settings) as running:
        with running.state.sessions() as session:
            data = factories.dataset(session, name="digits", rows=10, splits=[0] * 8 + [1, 2])
            factories.model(session, data, name="reader")
            session.commit()
        yield running


def _weights(seed: int = 0, **changes: np.ndarray) -> bytes:
    generator = np.random.default_rng(seed)
    tensors = {"0.weight": generator.normal(size=(3, 64)).astype(np.float32), **changes}
    return safetensors.numpy.save(tensors)


def _post(client: TestClient, content: bytes, **params: Any) -> Any:
    return client.post(PATH, content=content, headers=BINARY, params=params)


def _forget(session: Any, *, rows: list[int], revision: int) -> str:
    """A completed deletion of rows that were excluded at a revision; its id."""
    data = session.scalars(select(Dataset).where(Dataset.name == "digits")).one()
    asked = factories.request(session, data, rows=rows, status="completed")
    for row in rows:
        session.get_one(factories.Record, (data.id, row)).excluded_revision = revision
    data.revision = max(data.revision, revision)
    session.flush()
    return asked.id


def test_an_import_is_stored_as_it_was_sent_and_goes_live_first(app: FastAPI) -> None:
    client = callers.client(app, "models:write", "models:read", "models:promote")
    sent = _weights()
    answer = _post(client, sent)
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
    _post(client, _weights())
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
    _post(client, _weights())
    refused = client.put(ALIAS, json={"version": 1})
    assert_problem(refused, 409, "still to be measured", f"{PATH}/1")
    assert int(refused.headers["Retry-After"]) > 0
    callers.measured(app, 1, mark="unconfirmed_rows")
    assert client.get(f"{PATH}/1").json()["mark"] == "unconfirmed_rows"


def test_a_second_import_goes_live_only_when_asked(app: FastAPI) -> None:
    client = callers.client(app)
    _post(client, _weights(0))
    callers.measured(app, 1)
    client.post(PATH, content=_weights(1), headers={"Content-Type": "application/vnd.safetensors"})
    callers.measured(app, 2)
    second = client.get(f"{PATH}/2").json()
    assert (second["number"], second["is_production"], second["status"]) == (2, False, "published")
    _post(client, _weights(2), promote="true")
    callers.measured(app, 3)
    assert client.get("/v1/models/reader").json()["production"] == 3
    _post(client, _weights(3), promote="false")
    callers.measured(app, 4)
    assert client.get("/v1/models/reader").json()["production"] == 3


def test_import_goes_live_only_for_a_key_that_may_promote(app: FastAPI) -> None:
    writer = callers.client(app, "models:write", "models:read")
    assert_problem(_post(writer, _weights(), promote="true"), 403, "models:promote")
    store: Path = app.state.settings.store
    assert [file for file in store.rglob("*") if file.is_file()] == []  # refused unread
    for number, asked in enumerate(({}, {"promote": "false"}), start=1):
        assert _post(writer, _weights(), **asked).status_code == 201
        callers.measured(app, number)
        made = writer.get(f"{PATH}/{number}").json()
        assert (made["is_production"], made["status"]) == (False, "published")
    assert writer.get("/v1/models/reader").json()["production"] is None
    promoter = callers.client(app, "models:write", "models:promote")
    for number, asked in ((3, {}), (4, {"promote": "true"})):
        assert _post(promoter, _weights(number), **asked).status_code == 201
        callers.measured(app, number)
        assert writer.get(f"{PATH}/{number}").json()["is_production"]


def test_the_same_file_may_be_imported_twice(app: FastAPI) -> None:
    client = callers.client(app)
    first, second = (_post(client, _weights()).json() for _ in range(2))
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
        (_weights()[:-5], "cut short"),
        (_weights(**narrow), "shape"),
        (_weights(**double), "dtype"),
        (_weights(**infinite), "NaN or infinity"),
        (_weights(**more), "unexpected"),
        (safetensors.numpy.save(more), "missing"),
    ):
        assert_problem(_post(client, content), 422, word)
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
        assert_problem(_post(client, _weights()), 413)
        pieces = (piece for piece in [_weights()[:400], _weights()[400:]])
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
    assert _post(callers.client(app), _weights()).status_code == 201
    assert [file.name for file in uploads.iterdir()] == ["young.part"]


def test_a_store_that_cannot_be_written_is_said_to_be_unavailable(app: FastAPI) -> None:
    store: Path = app.state.settings.store
    store.mkdir(parents=True)
    (store / "uploads").write_bytes(b"in the way")
    refused = _post(callers.client(app), _weights())
    assert_problem(refused, 503, "store")
    assert int(refused.headers["Retry-After"]) > 0
    assert str(store) not in refused.text
    (store / "uploads").unlink()
    (store / "checkpoints").write_bytes(b"in the way")
    assert_problem(_post(callers.client(app), _weights()), 503, "store")
    assert callers.client(app).get(PATH).json()["items"] == []


def test_a_model_that_no_worker_has_seen_takes_no_import_yet(app: FastAPI) -> None:
    with app.state.sessions() as session:
        data = session.scalars(select(Dataset)).one()
        factories.model(session, data, name="new", parameters=None)
        factories.model(session, data, name="bad", parameters=None, error="too small")
        session.commit()
    client = callers.client(app)
    waiting = client.post("/v1/models/new/versions", content=_weights(), headers=BINARY)
    assert_problem(waiting, 409, "prepared")
    assert int(waiting.headers["Retry-After"]) > 0
    refused = client.post("/v1/models/bad/versions", content=_weights(), headers=BINARY)
    assert_problem(refused, 409, "too small")
    missing = client.post("/v1/models/nobody/versions", content=_weights(), headers=BINARY)
    assert_problem(missing, 404)


def test_an_import_may_not_bring_back_what_was_forgotten(app: FastAPI) -> None:
    with app.state.sessions() as session:
        asked = _forget(session, rows=[2], revision=1)
        session.commit()
    client = callers.client(app)
    refused = _post(client, _weights())
    assert_problem(refused, 409, asked, "data_revision=1", "would-resurrect")
    assert client.get(PATH).json()["items"] == []
    assert _post(client, _weights(), data_revision=1).status_code == 201
    assert_problem(_post(client, _weights(), data_revision=2), 422, "data_revision")
    assert_problem(_post(client, _weights(), data_revision=-1), 422)
    assert_problem(_post(client, _weights(), data_revision=2**31), 422)


def test_weights_known_to_hold_forgotten_records_are_refused_whatever_is_said_of_them(
    app: FastAPI,
) -> None:
    client = callers.client(app)
    digest = _post(client, _weights()).json()["digest"]
    with app.state.sessions() as session:
        asked = _forget(session, rows=[2], revision=1)
        session.commit()
    open_store(app.state.settings.store).blobs.delete("checkpoints", digest)
    assert_problem(_post(client, _weights(), data_revision=1), 409, asked, "version 1 of reader")
    assert not open_store(app.state.settings.store).blobs.exists("checkpoints", digest)
    assert _post(client, _weights(1), data_revision=1).status_code == 201


def test_a_deletion_that_a_batch_has_claimed_counts_as_forgotten(app: FastAPI) -> None:
    with app.state.sessions() as session:
        asked = _forget(session, rows=[2], revision=1)
        model = models.get(session, "reader")
        request = lookup.get(session, asked)
        factories.erasure(session, request, model, status=ErasureStatus.CLAIMED)
        session.commit()
    assert_problem(_post(callers.client(app), _weights()), 409, asked)


def test_forgotten_rows_that_are_never_trained_on_hinder_no_import(app: FastAPI) -> None:
    with app.state.sessions() as session:
        _forget(session, rows=[8, 9], revision=1)
        session.commit()
    assert _post(callers.client(app), _weights()).status_code == 201


def test_requests_that_wait_concern_an_imported_version(app: FastAPI) -> None:
    with app.state.sessions() as session:
        data = session.scalars(select(Dataset)).one()
        asked = factories.request(session, data, rows=[1]).id
        session.commit()
    assert _post(callers.client(app), _weights()).status_code == 201
    with app.state.sessions() as session:
        shares = session.scalars(select(Erasure)).all()
        assert [(one.request_id, one.status) for one in shares] == [(asked, "pending")]


def _chain(app: FastAPI) -> None:
    """Version 1 (anchor), 2 (forgets rows 0 and 1), 3 (forgets row 2, live)."""
    with app.state.sessions() as session:
        model = models.get(session, "reader")
        data = session.get_one(Dataset, model.dataset_id)
        anchor = factories.version(session, model)
        made = anchor
        for revision, rows in ((1, [0, 1]), (2, [2])):
            asked = lookup.get(session, _forget(session, rows=rows, revision=revision))
            made = factories.unlearned(session, model, made, [asked])
            measured = {
                "metrics": {"rmia_auc": {"value": 0.5, "worst_records": [{"row": 3}], "k": 1}},
                "pooled": {"batches": 2, "rows": 20, "smallest_batch": 10},
                "of_a_later_release": {"3": 0.9},
            }
            factories.verification(session, made, measured=measured)
        assert data.revision == 2
        session.commit()


def test_versions_are_listed_by_page_and_status(app: FastAPI) -> None:
    _chain(app)
    client = callers.client(app, "models:read")
    first = client.get(PATH, params={"limit": 2}).json()
    assert [one["number"] for one in first["items"]] == [3, 2]
    rest = client.get(PATH, params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [one["number"] for one in rest["items"]] == [1]
    assert rest["next_cursor"] is None
    assert client.get(PATH, params={"status": "retired"}).json()["items"] == []
    assert_problem(client.get(PATH, params={"status": "gone"}), 422)
    assert_problem(client.get(PATH, params={"cursor": "AAAA"}), 422)
    for number in ("0", "-1", "x", str(2**40)):
        assert_problem(client.get(f"{PATH}/{number}"), 422)
    assert_problem(client.get(f"{PATH}/9"), 404, "latest is 3")
    assert_problem(callers.client(app, "models:write").get(PATH), 403)


def test_a_lineage_goes_back_to_the_anchor_with_batches_and_verdicts(app: FastAPI) -> None:
    _chain(app)
    client = callers.client(app, "models:read")
    items = client.get(f"{PATH}/3/lineage").json()["items"]
    assert [(one["number"], one["parent"], one["records"]) for one in items] == [
        (3, 2, 1),
        (2, 1, 2),
        (1, None, 0),
    ]
    assert [one["verdict"] for one in items] == ["passed", "passed", None]
    assert [one["method"] for one in items] == ["iau", "iau", None]
    assert items[0]["batch"].startswith("b_")
    first = client.get(f"{PATH}/3/lineage", params={"limit": 1}).json()
    rest = client.get(f"{PATH}/3/lineage", params={"cursor": first["next_cursor"]}).json()
    assert [one["number"] for one in rest["items"]] == [2, 1]


def test_scores_of_single_records_need_a_scope_of_their_own(app: FastAPI) -> None:
    _chain(app)
    reader = callers.client(app, "models:read").get(f"{PATH}/3/verification").json()
    assert reader["verdict"] == "passed"
    assert reader["measured"]["metrics"] == {"rmia_auc": {"value": 0.5, "k": 1}}
    assert reader["measured"]["pooled"] == {"batches": 2, "rows": 20, "smallest_batch": 10}
    # Nobody knows who may read it.
    assert "of_a_later_release" not in reader["measured"]
    auditor = callers.client(app, "models:read", "audit:read").get(f"{PATH}/3/verification")
    everything = auditor.json()["measured"]
    assert everything["metrics"]["rmia_auc"]["worst_records"] == [{"row": 3}]
    assert everything["of_a_later_release"] == {"3": 0.9}
    assert_problem(callers.client(app).get(f"{PATH}/1/verification"), 404, "no verification")


ALIAS = "/v1/models/reader/aliases/production"


def test_the_alias_moves_back_and_forth_with_its_history(app: FastAPI) -> None:
    client = callers.client(app, "models:read", "models:write", "models:promote")
    assert client.get(ALIAS).json()["version"] is None
    for seed in range(2):
        _post(client, _weights(seed), promote="true")
        callers.measured(app, seed + 1)
    moved = client.put(ALIAS, json={"version": 1, "reason": "rollback", "expected": 2})
    assert moved.status_code == 200
    assert moved.json()["version"] == 1
    history = client.get(ALIAS).json()["history"]["items"]
    assert [(one["version"], one["previous"], one["reason"]) for one in history] == [
        (1, 2, "rollback"),
        (2, 1, "imported"),
        (1, None, "imported"),
    ]
    assert history[0]["moved_by"].startswith("key:key_")
    assert {one["moved_by"] for one in history[1:]} == {"worker:w"}
    page = client.get(ALIAS, params={"limit": 2}).json()["history"]
    rest = client.get(ALIAS, params={"cursor": page["next_cursor"]}).json()["history"]
    assert [one["version"] for one in rest["items"]] == [1]
    again = client.put(ALIAS, json={"version": 1}).json()
    assert len(again["history"]["items"]) == 3


def test_the_alias_is_moved_only_from_where_the_caller_saw_it(app: FastAPI) -> None:
    client = callers.client(app)
    for seed in range(2):
        _post(client, _weights(seed), promote="true")
        callers.measured(app, seed + 1)
    assert_problem(client.put(ALIAS, json={"version": 1, "expected": 1}), 409, "production-moved")
    assert client.get(ALIAS).json()["version"] == 2


def test_a_version_with_forgotten_records_cannot_go_live_again(app: FastAPI) -> None:
    _chain(app)
    client = callers.client(app)
    refused = client.put(ALIAS, json={"version": 1})
    assert_problem(refused, 409, "would-resurrect")
    assert len(refused.json()["deletion_requests"]) == 2
    assert client.get(ALIAS).json()["version"] == 3
    with app.state.sessions() as session:
        model = models.get(session, "reader")
        versions.get(session, model, 3).status = VersionStatus.REJECTED
        model.production_id = versions.get(session, model, 2).id
        session.commit()
    assert_problem(client.put(ALIAS, json={"version": 3}), 409)


def test_moving_the_alias_needs_its_scope_and_a_version(app: FastAPI) -> None:
    _chain(app)
    writer = callers.client(app, "models:write", "models:read")
    assert_problem(writer.put(ALIAS, json={"version": 3}), 403, "models:promote")
    client = callers.client(app)
    assert_problem(client.put(ALIAS, json={"version": 9}), 404)
    for body in ({}, {"version": 0}, {"version": "x"}, {"version": 2**31}, {"version": 1, "x": 1}):
        assert_problem(client.put(ALIAS, json=body), 422)
    assert_problem(client.put(ALIAS, json={"version": 1, "reason": "a\nb"}), 422)


def test_only_writers_import(app: FastAPI) -> None:
    assert_problem(_post(callers.client(app, "models:read"), _weights()), 403)
    with app.state.sessions() as session:
        assert session.scalars(select(Version)).all() == []


def _held(app: FastAPI) -> None:
    """Version 1 is live; version 2, without row 0, is held until the request is nearly due."""
    with app.state.sessions() as session:
        model = models.get(session, "reader")
        data = session.get_one(Dataset, model.dataset_id)
        data.revision = 1
        session.get_one(factories.Record, (data.id, 0)).excluded_revision = 1
        base = factories.version(session, model)
        asked = factories.request(session, data, rows=[0], status="processing")
        batch = factories.batch(
            session, model, base, status="held", held_until=factories.NOW + timedelta(days=28)
        )
        factories.erasure(session, asked, model, status="claimed", batch_id=batch.id)
        version = factories.version(
            session,
            model,
            production=False,
            status=VersionStatus.CANDIDATE,
            data_revision=1,
            batch_id=batch.id,
        )
        batch.version_id = version.id
        session.commit()


def test_a_held_version_says_until_when_and_goes_live_when_approved(app: FastAPI) -> None:
    _held(app)
    client = callers.client(app)
    shown = client.get(f"{PATH}/2").json()
    assert shown["status"] == "candidate"
    assert "2026-03-29" in shown["status_reason"]
    [batch] = client.get("/v1/models/reader/batches").json()["items"]
    assert (batch["status"], batch["held_until"]) == ("held", "2026-03-29T12:00:00Z")
    refused = client.post("/v1/models/reader/batches:run-now", json={})
    assert_problem(refused, 409, f"{PATH}/2:approve")
    reader = callers.client(app, "models:read", "models:write")
    assert_problem(reader.post(f"{PATH}/2:approve"), 403, "models:promote")
    approved = client.post(f"{PATH}/2:approve")
    assert approved.status_code == 200, approved.text
    assert (approved.json()["is_production"], approved.json()["status"]) == (True, "published")
    assert client.post(f"{PATH}/2:approve").status_code == 200
    assert client.get("/v1/models/reader/batches").json()["items"][0]["status"] == "completed"


def test_only_a_held_version_is_approved(app: FastAPI) -> None:
    _chain(app)
    client = callers.client(app)
    assert_problem(client.post(f"{PATH}/2:approve"), 409, "not-held")
    assert_problem(client.post(f"{PATH}/9:approve"), 404)
