"""Record ids over HTTP: read to train on, sent back as what was trained on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select

from service.ledger.database.tables import AuditEvent, Dataset, Record, RecordListRow
from service.settings import Settings
from tests import factories
from tests.service.api import callers
from tests.service.api.callers import assert_problem

PATH = "/v1/datasets/digits"
NDJSON = {"Content-Type": "application/x-ndjson"}
ROWS = 14
SPLITS = [0] * 8 + [1] * 3 + [2] * 3


@pytest.fixture
def app(settings: Settings) -> Iterator[FastAPI]:
    with callers.application(settings) as running:
        with running.state.sessions() as session:
            data = factories.dataset(session, name="digits", rows=ROWS, splits=SPLITS)
            factories.model(session, data, name="reader")
            session.commit()
        yield running


def _send(client: TestClient, *record_ids: object) -> Any:
    body = "".join(json.dumps(one) + "\n" for one in record_ids)
    return client.post(f"{PATH}/record-lists", content=body.encode(), headers=NDJSON)


def _exclude(app: FastAPI, *rows: int) -> str:
    """A completed deletion of these rows at the dataset's next revision; its id."""
    with app.state.sessions() as session:
        data = session.scalars(select(Dataset)).one()
        data.revision += 1
        for row in rows:
            session.get_one(Record, (data.id, row)).excluded_revision = data.revision
        asked = factories.request(session, data, rows=rows, status="completed").id
        session.commit()
    return asked


def _import(client: TestClient, seed: int = 0, **params: Any) -> Any:
    weights = np.random.default_rng(seed).normal(size=(3, 64)).astype(np.float32)
    return client.post(
        "/v1/models/reader/versions",
        content=safetensors.numpy.save({"0.weight": weights}),
        headers={"Content-Type": "application/octet-stream"},
        params=params,
    )


def test_the_ids_of_a_split_are_listed_line_by_line_with_the_revision(app: FastAPI) -> None:
    _exclude(app, 3, 9)
    client = callers.client(app, "models:write")
    listed = client.get(f"{PATH}/record-ids")
    assert listed.headers["content-type"].startswith("application/x-ndjson")
    assert listed.headers["Data-Revision"] == "1"
    ids = [json.loads(line) for line in listed.text.splitlines()]
    assert ids == [f"r{row}" for row in (0, 1, 2, 4, 5, 6, 7)]
    audit = client.get(f"{PATH}/record-ids", params={"split": "audit"})
    assert audit.text == '"r11"\n"r12"\n"r13"\n'
    assert_problem(client.get(f"{PATH}/record-ids", params={"split": "test"}), 422)
    assert_problem(callers.client(app, "models:read").get(f"{PATH}/record-ids"), 403)


def test_what_was_listed_can_be_sent_back_and_is_one_list_however_often(app: FastAPI) -> None:
    client = callers.client(app)
    listed = client.get(f"{PATH}/record-ids").content
    made = client.post(f"{PATH}/record-lists", content=listed, headers=NDJSON)
    assert made.status_code == 201, made.text
    shown = made.json()
    assert shown["splits"] == {"train": 8, "validation": 0, "audit": 0}
    assert client.get(made.headers["Location"]).json() == shown
    again = _send(client, *[f"r{row}" for row in reversed(range(8))], "r0")
    assert again.json() == shown
    with app.state.sessions() as session:
        lines = session.scalars(select(AuditEvent).where(AuditEvent.action.like("record_list:%")))
        assert [line.data["records"] for line in lines] == [8]
        kept = session.scalars(select(RecordListRow.row).order_by(RecordListRow.row)).all()
        assert kept == list(range(8))


def test_ids_are_normalised_as_in_a_deletion_request(app: FastAPI) -> None:
    with app.state.sessions() as session:
        data = session.scalars(select(Dataset)).one()
        session.get_one(Record, (data.id, 0)).record_id = "caf\N{LATIN SMALL LETTER E WITH ACUTE}"
        session.commit()
    made = _send(callers.client(app), " cafe\N{COMBINING ACUTE ACCENT} ", "r1")
    assert made.status_code == 201, made.text
    assert made.json()["records"] == 2


def test_unknown_ids_are_refused_by_count_and_position_and_not_repeated(app: FastAPI) -> None:
    ids = ["r0", *[f"secret-{number}" for number in range(7)], "r1"]
    refused = _send(callers.client(app), *ids)
    assert_problem(refused, 422, "7 of 9", "2, 3, 4, 5, 6")
    assert refused.json()["positions"] == [2, 3, 4, 5, 6]
    assert "secret" not in refused.text


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'"r0"\nr1\n', "line 2"),
        (b'"r0"\n7\n', "line 2"),
        (b'["r0"]\n', "line 1"),
        (b'"r0"\n\n"\\ud800"\n', "line 3"),
        (b"\xff\n", "line 1"),
        (b"", "empty"),
        (b"\n\n", "empty"),
    ],
)
def test_a_line_that_is_no_id_is_refused_by_its_number(
    app: FastAPI, body: bytes, says: str
) -> None:
    client = callers.client(app)
    refused = client.post(f"{PATH}/record-lists", content=body, headers=NDJSON)
    assert_problem(refused, 422, says)


def test_a_list_must_leave_something_to_measure_on(app: FastAPI) -> None:
    client = callers.client(app)
    assert_problem(_send(client, "r0", "r11", "r12", "r13"), 422, "audit split")
    assert_problem(_send(client, "r0", "r8", "r9", "r10"), 422, "validation split")
    assert _send(client, "r0", "r8", "r9", "r11", "r12").status_code == 201


def test_lists_are_sent_as_ndjson_by_those_who_may_import(app: FastAPI) -> None:
    answer = callers.client(app).post(f"{PATH}/record-lists", json=["r0"])
    assert_problem(answer, 415, "ndjson")
    assert_problem(_send(callers.client(app, "models:read"), "r0"), 403)


def test_a_version_says_which_list_it_was_trained_on(app: FastAPI) -> None:
    client = callers.client(app)
    listed = _send(client, "r0", "r1", "r8").json()["id"]
    shown = _import(client, trained_on=listed)
    assert shown.status_code == 201, shown.text
    assert shown.json()["trained_on"] == listed
    assert _import(client, 1).json()["trained_on"] == "split"
    assert_problem(_import(client, 2, trained_on="rl_" + "0" * 26), 404, "record-lists")
    assert_problem(_import(client, 2, trained_on="everything"), 422, "trained_on")


@pytest.mark.parametrize("revision", [0, 1, 5])
def test_a_list_and_a_revision_together_are_refused_by_name(app: FastAPI, revision: int) -> None:
    client = callers.client(app)
    listed = _send(client, "r0", "r1").json()["id"]
    refused = _import(client, trained_on=listed, data_revision=revision)
    assert_problem(refused, 422)
    assert {one["field"] for one in refused.json()["fields"]} == {
        "query.data_revision",
        "query.trained_on",
    }
    assert _import(client, trained_on="split", data_revision=0).status_code == 201


def test_a_list_with_forgotten_records_is_refused_and_one_without_is_not(app: FastAPI) -> None:
    client = callers.client(app)
    of_all = _send(client, "r0", "r1", "r8").json()["id"]
    rest = _send(client, "r0", "r1").json()["id"]
    asked = _exclude(app, 8)
    refused = _import(client, trained_on=of_all)
    assert_problem(refused, 409, asked, "would-resurrect", "list")
    taken = _import(client, trained_on=rest)
    assert taken.status_code == 201, taken.text
    assert taken.json()["data_revision"] == 1
    # The train split at revision 1 does not hold row 8 either: it is a validation row.
    assert _import(client, 1, data_revision=1).status_code == 201
