"""Encoders and tokenizers that nothing uses are deleted, with their files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select

from service.ledger.database.tables import AuditEvent
from tests import encoders, texts
from tests.service.api.callers import assert_problem
from tests.workers.office import STATEMENT, Office, opened
from workers.compute.process import ComputeProcess
from workers.jobs import inspections

ROWS = 60


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory, compute: ComputeProcess) -> Iterator[Office]:
    with opened(tmp_path_factory.mktemp("office"), compute) as found:
        encoders.write(found.settings.sources / "small")
        texts.write_csv(found.settings.sources / "letters.csv", ROWS)
        yield found


def stored(office: Office) -> dict[str, list[str]]:
    blobs = office.runtime.store.blobs
    return {kind: blobs.digests(kind) for kind in ("encoders", "tokenizers")}


def lines(office: Office, subject: str) -> list[str]:
    with office.runtime.session() as session:
        wanted = select(AuditEvent.action).filter_by(subject=subject).order_by(AuditEvent.seq)
        return [str(one) for one in session.scalars(wanted)]


def test_encoder_and_tokenizer_stay_while_they_are_used_and_then_go(office: Office) -> None:
    client = office.client
    small = office.add_encoder("small")
    path, tokenizer = "/v1/encoders/small", f"/v1/tokenizers/{small['tokenizer']}"
    assert_problem(client.delete(tokenizer), 409, "encoder small")
    options: dict[str, Any] = {"tokenizer": small["tokenizer"], "max_length": 8}
    office.add("letters", "letters.csv", input={"name": "text", "options": options})
    named = {"name": "encoder_classifier", "parameters": {"encoder": small["digest"]}}
    body = {"name": "m", "dataset": "letters", "architecture": named}
    assert client.post("/v1/models", json=body).status_code == 201
    assert_problem(client.delete(path), 409, "model m")
    assert client.post("/v1/models/m:withdraw", json={}).status_code == 202
    # An encoder of which there are features is used as well.
    options = {"encoder": small["digest"], "max_length": 8}
    office.add("features", "letters.csv", input={"name": "features", "options": options})
    assert_problem(client.delete(path), 409, "dataset features")
    assert client.delete("/v1/datasets/features").status_code == 202
    assert client.delete(path).status_code == 204
    assert stored(office) == {"encoders": [], "tokenizers": [small["tokenizer"]]}
    assert_problem(client.get(path), 404)
    assert_problem(client.delete(path), 404)
    assert lines(office, "encoder:small")[-1] == "encoder:removed"
    # The dataset of texts is read with the tokenizer when rows are appended.
    assert_problem(client.delete(tokenizer), 409, "dataset letters")
    assert client.delete("/v1/datasets/letters").status_code == 202
    assert client.delete(tokenizer).status_code == 204
    assert stored(office) == {"encoders": [], "tokenizers": []}
    assert_problem(client.delete(tokenizer), 404)
    assert lines(office, f"tokenizer:{small['tokenizer']}") == [
        "tokenizer:added",
        "tokenizer:removed",
    ]
    # What was deleted can be brought again, and names what it named.
    assert office.add_encoder("small")["digest"] == small["digest"]


def test_files_that_another_name_has_stay(office: Office) -> None:
    office.add_encoder("first", "small")
    office.add_encoder("second", "small")
    before = stored(office)
    assert office.client.delete("/v1/encoders/first").status_code == 204
    assert stored(office) == before
    assert office.client.get("/v1/encoders/second").json()["status"] == "ready"


def test_an_encoder_that_is_checked_cannot_be_deleted_and_a_refused_one_can(office: Office) -> None:
    body = {"name": "waits", "source": {"path": "nowhere"}, "statement": STATEMENT}
    assert office.client.post("/v1/encoders", json=body).status_code == 202
    assert_problem(office.client.delete("/v1/encoders/waits"), 409, "being checked")
    assert office.add_encoder("refused", "nowhere")["status"] == "failed"
    assert office.client.delete("/v1/encoders/refused").status_code == 204


def test_a_tokenizer_of_a_source_that_is_not_read_yet_stays(office: Office) -> None:
    content = texts.tokenizer(words=texts.COMMON)
    assert office.send(content).status_code == 201
    digest = hashlib.sha256(content).hexdigest()
    options = {"tokenizer": digest, "max_length": 8}
    given = {"name": "text", "options": options}
    body = {"name": "dry", "source": {"path": "letters.csv"}, "input": given, "dry_run": True}
    assert office.client.post("/v1/datasets", json=body).status_code == 202
    assert_problem(office.client.delete(f"/v1/tokenizers/{digest}"), 409, "dry run")
    inspections.run_due(office.runtime)
    body = {**body, "name": "later", "dry_run": False}
    assert office.client.post("/v1/datasets", json=body).status_code == 202
    assert_problem(office.client.delete(f"/v1/tokenizers/{digest}"), 409, "dataset later")
    assert digest in stored(office)["tokenizers"]
