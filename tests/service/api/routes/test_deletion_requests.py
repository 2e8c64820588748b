"""Deletion requests that are made over HTTP, on both databases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select

from service.api.routes.deletion_requests_schemas import (
    BatchResults,
    DeletionRequestDetail,
    Preview,
)
from service.api.routes.deletion_requests_schemas import DeletionRequest as Shape
from service.ledger.database.identifiers import Origin
from service.ledger.database.states import DatasetStatus
from service.ledger.database.tables import DatasetReport, DeletionRequest
from service.ledger.requests import outlook
from tests import factories
from tests.service.api import callers, faces
from tests.service.api.callers import assert_problem
from tests.service.api.faces import URL, ask_for

APPLICATION = faces.application


def test_an_accepted_request_says_where_and_when(client: TestClient) -> None:
    answer = client.post(URL, json=ask_for("r0", "r9", reason="asked", client_reference="T-1"))
    assert answer.status_code == 202
    body = answer.json()
    Shape.model_validate(body)
    assert answer.headers["Location"] == f"{URL}/{body['id']}"
    assert int(answer.headers["Retry-After"]) > 0
    assert (body["status"], body["matched"], body["client_reference"]) == ("accepted", 2, "T-1")
    assert body["created_at"].endswith("Z")
    created, due = (datetime.fromisoformat(body[name]) for name in ("created_at", "due_at"))
    assert due == outlook.due(created)
    assert created < datetime.fromisoformat(body["expected_by"]) < due
    shown = client.get(answer.headers["Location"]).json()
    DeletionRequestDetail.model_validate(shown)
    more = {"erasures": shown["erasures"], "datasets": shown["datasets"], "legal_holds": []}
    assert body | more == shown
    assert shown["datasets"] == [{"dataset": "faces", "matched": 2, "already_forgotten": 0}]
    assert [(one["model"], one["status"]) for one in shown["erasures"]] == [("who", "pending")]


def test_a_subject_is_asked_for_in_the_body(client: TestClient) -> None:
    answer = client.post(URL, json={"dataset": "faces", "subject_id": "planted-person"})
    assert (answer.json()["kind"], answer.json()["matched"]) == ("subject", 10)
    assert "planted" not in answer.text


def test_a_subject_is_asked_for_in_every_dataset_at_once(client: TestClient, app: FastAPI) -> None:
    with app.state.sessions() as session:
        factories.dataset(session, name="voices", rows=2, subjects=["ann", "planted-person"])
        session.commit()
    answer = client.post(URL, json={"subject_id": "planted-person"})
    assert (answer.status_code, answer.json()["dataset"]) == (202, None)
    Shape.model_validate(answer.json())
    assert (answer.json()["matched"], answer.json()["complete_match"]) == (11, True)
    shown = client.get(answer.headers["Location"])
    DeletionRequestDetail.model_validate(shown.json())
    assert [(one["dataset"], one["matched"]) for one in shown.json()["datasets"]] == [
        ("faces", 10),
        ("voices", 1),
    ]
    assert "planted" not in answer.text + shown.text
    assert client.get(URL, params={"dataset": "voices"}).json()["items"] == [answer.json()]


def test_a_dataset_that_knows_no_subjects_says_so(client: TestClient, app: FastAPI) -> None:
    with app.state.sessions() as session:
        factories.dataset(session, name="nameless", record_id_origin=Origin.GENERATED)
        session.commit()
    subject = client.post(URL, json={"dataset": "nameless", "subject_id": "planted"})
    assert_problem(subject, 409, "no-subject-ids")
    record = client.post(URL, json={"dataset": "nameless", "record_ids": ["planted"]})
    assert_problem(record, 409, "no-record-ids", "row-000000")
    assert "planted" not in subject.text + record.text


def test_a_preview_shows_what_a_request_would_meet(client: TestClient, app: FastAPI) -> None:
    body = {"dataset": "faces", "subject_id": "planted-person"}
    seen = callers.client(app, "requests:write").post(f"{URL}:preview", json=body)
    assert seen.status_code == 200
    Preview.model_validate(seen.json())
    assert seen.json()["datasets"][0]["models"] == [
        {"model": "who", "version": 1, "trained_on": 10}
    ]
    assert "planted" not in seen.text
    assert client.get(URL).json()["items"] == []
    assert_problem(callers.client(app, "requests:read").post(f"{URL}:preview", json=body), 403)
    assert_problem(client.post(f"{URL}:preview", json=ask_for("r0", surprise=1)), 422)
    assert_problem(client.post(f"{URL}:preview", json=ask_for(*map(str, range(6)))), 413)


def test_a_key_may_look_only_so_often(client: TestClient, app: FastAPI) -> None:
    allowed = app.state.settings.previews_per_minute
    answers = [client.post(f"{URL}:preview", json=ask_for("r0")) for _ in range(allowed + 1)]
    assert [one.status_code for one in answers[:allowed]] == [200] * allowed
    assert_problem(answers[-1], 429, "previews per minute")
    assert int(answers[-1].headers["Retry-After"]) > 0
    assert callers.client(app).post(f"{URL}:preview", json=ask_for("r0")).status_code == 200
    assert client.post(URL, json=ask_for("r0")).status_code == 202


def test_a_repeated_call_gets_the_first_answer(client: TestClient, app: FastAPI) -> None:
    first = client.post(URL, json=ask_for("r0"), headers={"Idempotency-Key": "one"})
    again = client.post(URL, json=ask_for("r0"), headers={"Idempotency-Key": "one"})
    assert (again.status_code, again.json()) == (202, first.json())
    assert again.headers["Location"] == first.headers["Location"]
    assert again.headers["Idempotency-Replayed"] == "true"
    other = client.post(URL, json=ask_for("r1"), headers={"Idempotency-Key": "one"})
    assert_problem(other, 422, "idempotency-key-reused")
    stranger = callers.client(app).post(URL, json=ask_for("r1"), headers={"Idempotency-Key": "one"})
    assert stranger.status_code == 202


def test_simultaneous_repeats_make_one_request(client: TestClient, app: FastAPI) -> None:
    def post(_number: int) -> str:
        answer = client.post(URL, json=ask_for("r0"), headers={"Idempotency-Key": "race"})
        return str(answer.json()["id"])

    with ThreadPoolExecutor(8) as pool:
        answered = set(pool.map(post, range(24)))
    with app.state.sessions() as session:
        assert session.scalars(select(DeletionRequest.id)).all() == list(answered)


def test_class_is_named_by_the_name_that_the_source_gave_it(app: FastAPI) -> None:
    client = callers.client(app, "requests:write", "requests:read")
    with app.state.sessions() as session:
        data = factories.dataset(session, name="pets")
        named = {"columns": [], "class_names": ["cat", "dog", "owl"], "notes": {}}
        session.add(DatasetReport(dataset_id=data.id, **named))
        session.commit()
    asked = {"dataset": "pets", "class_name": "dog"}
    shown = client.post(f"{URL}:preview", json=asked).json()
    by_number = client.post(f"{URL}:preview", json={"dataset": "pets", "label": 1}).json()
    assert shown["matched"] == by_number["matched"] > 0
    made = client.post(URL, json=asked)
    assert made.status_code == 202
    assert (made.json()["kind"], made.json()["label"]) == ("class", 1)
    with app.state.sessions() as session:
        data = factories.dataset(session, name="towns")
        named = {"columns": [], "class_names": ["Oslo", "Malm\u00f6", "oslo"], "notes": {}}
        session.add(DatasetReport(dataset_id=data.id, **named))
        session.commit()
    for name in ("Malm\u00f6", "Malmo\u0308", " Malm\u00f6 "):
        town = client.post(URL, json={"dataset": "towns", "class_name": name}).json()
        assert (town["kind"], town["label"]) == ("class", 1)
    for body in ({**asked, "class_name": "cow"}, {**asked, "class_name": "Dog"}):
        assert_problem(client.post(URL, json=body), 422, "unknown-class", "class_names")
    assert_problem(client.post(URL, json={**asked, "label": 1}), 422, "exactly one of")


def test_nothing_matched_is_no_error(client: TestClient) -> None:
    answer = client.post(URL, json=ask_for("unknown"))
    assert (answer.status_code, answer.json()["status"]) == (202, "no_match")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"dataset": "faces"}, ["exactly one of"]),
        ({"record_ids": ["r0"]}, ["name the dataset"]),
        ({"label": 1}, ["name the dataset"]),
        ({"dataset": None, "subject_id": "ann"}, ["body.dataset"]),
        ({"dataset": "", "subject_id": "ann"}, ["body.dataset"]),
        (ask_for("r0", subject_id="ann"), ["exactly one of"]),
        (ask_for(), ["body.record_ids"]),
        (ask_for("r0", surprise=1), ["body.surprise", "not known"]),
        (ask_for(""), ["body.record_ids.0"]),
        (ask_for("x" * 256), ["body.record_ids.0"]),
        ({"dataset": "faces", "record_ids": "r0"}, ["body.record_ids"]),
        ({"dataset": "faces", "record_ids": [7]}, ["body.record_ids.0"]),
        ({"dataset": "faces", "record_ids": None}, ["body.record_ids"]),
        ({"dataset": "faces", "label": "1"}, ["body.label"]),
        ({"dataset": "faces", "label": True}, ["body.label"]),
        ({"dataset": "faces", "label": 2**70}, ["body.label"]),
        ({"dataset": "Faces!", "label": 1}, ["body.dataset"]),
        ([], ["body"]),
        ("planted", ["body"]),
    ],
)
def test_a_body_that_makes_no_sense_is_refused_by_field(
    client: TestClient, body: Any, words: list[str]
) -> None:
    assert_problem(client.post(URL, json=body), 422, *words)
    assert client.get(URL).json()["items"] == []


def test_an_unknown_dataset_is_not_found(client: TestClient) -> None:
    assert_problem(client.post(URL, json=ask_for("r0") | {"dataset": "other"}), 404, "dataset")


def test_a_dataset_still_being_ingested_is_a_conflict(client: TestClient, app: FastAPI) -> None:
    with app.state.sessions() as session:
        factories.dataset(session, name="new", status=DatasetStatus.INGESTING)
        session.commit()
    answer = client.post(URL, json={"dataset": "new", "record_ids": ["r0"]})
    assert_problem(answer, 409, "dataset-not-ready", "ingested")
    assert int(answer.headers["Retry-After"]) > 0


def test_a_model_without_a_version_holds_no_request_up(client: TestClient, app: FastAPI) -> None:
    with app.state.sessions() as session:
        factories.model(session, factories.dataset(session, name="new"), name="untrained")
        session.commit()
    answer = client.post(URL, json={"dataset": "new", "record_ids": ["r0"]})
    assert (answer.status_code, answer.json()["status"]) == (202, "accepted")
    detail = client.get(answer.headers["Location"]).json()
    assert detail["erasures"] == []


def test_too_many_records_are_too_large(client: TestClient) -> None:
    assert client.post(URL, json=ask_for(*(f"r{row}" for row in range(5)))).status_code == 202
    assert_problem(client.post(URL, json=ask_for(*(f"r{row}" for row in range(6)))), 413, "split")


def test_a_full_queue_says_when_to_come_back(client: TestClient) -> None:
    items = [ask_for("r0") for _ in range(50)]
    results = client.post(f"{URL}:batch", json={"items": items}).json()
    assert (results["accepted"], results["refused"]) == (40, 10)
    answer = client.post(URL, json=ask_for("r0"))
    assert_problem(answer, 429, "queue-full")
    assert int(answer.headers["Retry-After"]) > 0


def test_a_batch_has_a_result_for_every_item(client: TestClient) -> None:
    items: list[Any] = [
        ask_for("r0", idempotency_key="a"),
        ask_for("r0", idempotency_key="a"),
        ask_for("r1", idempotency_key="a"),
        {"dataset": "faces", "subject_id": "ben"},
        {"dataset": "nowhere", "label": 1},
        ask_for(*(f"r{row}" for row in range(6))),
        ask_for("r0", surprise="planted-value"),
        "planted-value",
    ]
    answer = client.post(f"{URL}:batch", json={"items": items})
    results = answer.json()
    BatchResults.model_validate(results)
    assert answer.status_code == 202
    statuses = [item["status"] for item in results["items"]]
    assert statuses == [202, 202, 422, 202, 404, 413, 422, 422]
    assert results["items"][0]["request"] == results["items"][1]["request"]
    assert [(item["request"] is None) == (item["problem"] is None) for item in results["items"]]
    assert results["items"][6]["problem"]["fields"][0]["field"] == "surprise"
    assert "planted-value" not in answer.text
    assert (results["accepted"], results["refused"]) == (3, 5)


def test_the_key_of_a_batch_covers_its_items(client: TestClient) -> None:
    items = {"items": [ask_for("r0"), ask_for("r1")]}
    first = client.post(f"{URL}:batch", json=items, headers={"Idempotency-Key": "all"})
    again = client.post(f"{URL}:batch", json=items, headers={"Idempotency-Key": "all"})
    assert again.json() == first.json()
    assert len(client.get(URL).json()["items"]) == 2


@pytest.mark.parametrize("items", [[], [{}] * 1001, None, "x"])
def test_a_batch_of_none_or_too_many_is_refused(client: TestClient, items: Any) -> None:
    assert_problem(client.post(f"{URL}:batch", json={"items": items}), 422, "body.items")
