"""The OpenAPI document is complete, and the service behaves as it says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine

from service.api import problems
from service.ledger.database.states import RequestStatus
from service.ledger.registry import keys
from service.ledger.registry.policy import Policy
from service.main import create_app
from service.settings import Settings
from tests import factories
from tests.service import announcements
from tests.service.api import callers, serving
from tests.stored import save

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_headers_conformance,response_schema_conformance,negative_data_rejection,"
    "missing_required_header,unsupported_method,allow_header_conformance,ignored_auth"
)

OPEN = {
    "/healthz",
    "/readyz",
    "/.well-known/unlearning-keys.json",
    "/opendsr/discovery",
    "/opendsr/certificate.pem",
    "/.well-known/unlearning-model-signing.pem",
    "/.well-known/unlearning-model-signing/{key_id}.pem",
}


@pytest.fixture
def app(sqlite_database: Engine, tmp_path: Path) -> FastAPI:
    settings = Settings(
        _env_file=None,
        state_dir=tmp_path,
        database_url=sqlite_database.url.render_as_string(hide_password=False),
        heartbeat_seconds=3600,  # one beat is enough for the whole test
    )
    made = create_app(settings)
    weights = {"0.weight": np.zeros((3, 64), np.float32)}
    saved = save(settings.store, weights, {})
    with made.state.sessions() as session:
        announcements.announce(session)
        data = factories.dataset(session, name="faces", rows=30)
        policy = Policy().model_dump(mode="json")
        model = factories.model(session, data, name="who", policy=policy)
        stored = {"digest": saved.digest, "size_bytes": saved.size_bytes}
        base = factories.version(session, model, **stored)
        asked = factories.request(session, data, rows=[3])
        later = factories.unlearned(session, model, base, [asked], **stored)
        factories.verification(session, later)
        factories.request(session, data, rows=[4], status=RequestStatus.AWAITING_APPROVAL)
        session.commit()
    return made


def _operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in callers.document()["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def test_every_operation_says_what_it_is_and_how_it_fails() -> None:
    document = callers.document()
    tags = {tag["name"] for tag in document["tags"]}
    for path, method, operation in _operations():
        where = f"{method} {path}"
        assert operation["summary"], where
        assert set(operation["tags"]) <= tags, where
        assert bool(operation.get("security")) == (path not in OPEN), where
        wanted = {"500"} if path in OPEN else {"401", "403", "422", "429", "500", "503"}
        assert wanted <= set(operation["responses"]), where
        if "application/json" in operation.get("requestBody", {}).get("content", {}):
            assert {"400", "413", "415"} <= set(operation["responses"]), where


def test_every_failure_is_documented_as_a_problem() -> None:
    for path, method, operation in _operations():
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                assert set(response["content"]) == {problems.MEDIA_TYPE}, f"{method} {path}"
                assert response["description"] == problems.DESCRIPTIONS[int(status)]


def test_every_reference_in_the_document_leads_somewhere() -> None:
    document = callers.document()

    def references(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                yield node["$ref"]
            for member in node.values():
                yield from references(member)
        elif isinstance(node, list):
            for member in node:
                yield from references(member)

    found = set(references(document))
    assert "#/components/schemas/Problem" in found
    for reference in found:
        node: Any = document
        for step in reference.removeprefix("#/").split("/"):
            node = node[step]


@pytest.mark.slow
@pytest.mark.parametrize("with_key", [True, False])
def test_generated_calls_meet_no_surprise(app: FastAPI, tmp_path: Path, with_key: bool) -> None:
    headers: list[str] = []
    callers.beat(app)
    if with_key:
        with app.state.sessions() as session:
            _, token = keys.create(session, "generated", ["admin"], actor="cli")
            session.commit()
        headers = ["--header", f"Authorization: Bearer {token}"]
    phases = ["--phases", "examples,coverage,fuzzing", "--max-examples", "2"]
    rest = ["--checks", CHECKS, "--seed", "1", "--continue-on-failure", "--no-color"]
    program = str(Path(sys.executable).with_name("st"))
    with serving.served(app) as port:
        url = f"http://127.0.0.1:{port}"
        run = subprocess.run(
            [program, "run", f"{url}/openapi.json", *phases, *rest, *headers],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
