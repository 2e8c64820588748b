"""The audit chain, its signed head, reports and public keys over HTTP."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select

from service.ledger.audit import canonical, hash_chain, signing
from service.ledger.database.tables import RecordScore, Version
from service.settings import Settings
from tests import factories
from tests.service.api import callers
from tests.service.api.callers import assert_problem


@pytest.fixture
def app(settings: Settings) -> Iterator[FastAPI]:
    with callers.application(settings) as running:
        with running.state.sessions() as session:
            data = factories.dataset(session, name="faces")
            model = factories.model(session, data, name="who")
            base = factories.version(session, model)
            asked = factories.request(session, data, rows=[3])
            later = factories.unlearned(session, model, base, [asked])
            factories.verification(session, later)
            session.commit()
        yield running


@pytest.fixture
def auditor(app: FastAPI) -> TestClient:
    return callers.client(app, "audit:read")


def test_events_are_a_chain_that_anyone_can_check(app: FastAPI, auditor: TestClient) -> None:
    writer = callers.client(app, "requests:write")
    for row in range(5):
        body = {"dataset": "faces", "record_ids": [f"r{row}"]}
        assert writer.post("/v1/deletion-requests", json=body).status_code == 202
    lines: list[dict[str, object]] = []
    params = {"limit": "3"}
    while True:
        page = auditor.get("/v1/audit/events", params=params).json()
        lines += page["items"]
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
    lines.reverse()
    previous = hash_chain.GENESIS
    for number, line in enumerate(lines, start=1):
        assert hash_chain.problem(line, seq=number, previous_hash=previous) is None
        previous = str(line["hash"])
    assert [line["action"] for line in lines].count("deletion_request:accepted") == 5


def test_events_are_filtered_by_subject_and_action(auditor: TestClient) -> None:
    made = auditor.get("/v1/audit/events", params={"action": "key:created"}).json()["items"]
    subjects = {line["subject"] for line in made}
    assert len(subjects) == 1
    of_one = auditor.get("/v1/audit/events", params={"subject": subjects.pop()}).json()["items"]
    assert of_one == made
    assert auditor.get("/v1/audit/events?subject=model:none").json()["items"] == []
    for wrong in ("subject=x", "action=key:lost", "cursor=nonsense"):
        assert_problem(auditor.get(f"/v1/audit/events?{wrong}"), 422)


def test_scores_of_single_records_are_for_auditors_page_by_page(app: FastAPI) -> None:
    path = "/v1/models/who/versions/2/audit/records"
    with app.state.sessions() as session:
        version = session.scalars(select(Version).where(Version.number == 2)).one()
        session.add_all(
            RecordScore(dataset_id=1, row=row, version_id=version.id, scores={"a": {"x": row / 2}})
            for row in (5, 3)
        )
        session.commit()
    reader = callers.client(app, "models:read", "requests:read")
    assert_problem(reader.get(path), 403, "audit:read")
    auditor = callers.client(app, "audit:read")
    first = auditor.get(path, params={"limit": 1}).json()
    assert first["items"] == [{"record_id": "r3", "scores": {"a": {"x": 1.5}}}]
    rest = auditor.get(path, params={"cursor": first["next_cursor"]}).json()
    assert rest == {
        "items": [{"record_id": "r5", "scores": {"a": {"x": 2.5}}}],
        "next_cursor": None,
    }
    assert auditor.get("/v1/models/who/versions/1/audit/records").json()["items"] == []
    assert_problem(auditor.get("/v1/models/who/versions/9/audit/records"), 404)


def test_the_checkpoint_signs_the_head(auditor: TestClient) -> None:
    newest = auditor.get("/v1/audit/events", params={"limit": 1}).json()["items"][0]
    answer = auditor.get("/v1/audit/checkpoint")
    document = canonical.decode(answer.content)
    published = auditor.get("/.well-known/unlearning-keys.json").json()
    signing.check(document, signing.read_keys(published))
    assert newest["hash"] in answer.text
    assert canonical.encode(document) == answer.content


def test_the_report_of_a_version_is_canonical_and_signed(auditor: TestClient) -> None:
    answer = auditor.get("/v1/models/who/versions/2/audit")
    assert answer.status_code == 200, answer.text
    document = canonical.decode(answer.content)
    assert canonical.encode(document) == answer.content
    assert (document["model"], document["version"]) == ("who", 2)
    published = TestClient(auditor.app).get("/.well-known/unlearning-keys.json").json()
    signing.check(document, signing.read_keys(published))
    document["version"] = 1
    with pytest.raises(signing.BadSignature):
        signing.check(document, signing.read_keys(published))


def test_unknown_reports_are_not_found(auditor: TestClient) -> None:
    assert_problem(auditor.get("/v1/models/unknown/versions/1/audit"), 404)
    assert_problem(auditor.get("/v1/models/who/versions/9/audit"), 404)
    assert_problem(auditor.get("/v1/models/who/versions/0/audit"), 422)


def test_reports_need_the_scope(app: FastAPI) -> None:
    reader = callers.client(app, "models:read", "requests:read")
    for path in ("/v1/audit/events", "/v1/audit/checkpoint", "/v1/models/who/versions/2/audit"):
        assert_problem(reader.get(path), 403, "audit:read")
