"""Who is let in, and for what."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import timedelta

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from service.api import auth
from service.ledger.audit import model_signing
from service.ledger.database import db
from service.ledger.registry import keys
from service.settings import Settings
from tests.service.api import callers
from tests.service.api.callers import assert_problem

#: The id of the key for weights that is in force in development.
CURRENT = next(iter(model_signing.published(Settings(_env_file=None))))
OPEN = {
    "/healthz",
    "/readyz",
    "/.well-known/unlearning-keys.json",
    "/.well-known/unlearning-model-signing.pem",
    f"/.well-known/unlearning-model-signing/{CURRENT}.pem",
}
SUBJECT_REQUEST = "a7551968-d5d6-44b2-9831-815ac9017798"
#: Open, too, and 404 as long as there is no certificate.
OPENDSR = {"/opendsr/discovery", "/opendsr/certificate.pem"}


@pytest.fixture
def database(sqlite_database: Engine) -> Engine:
    return sqlite_database


def _operations() -> Iterator[tuple[str, str]]:
    for path, item in callers.document()["paths"].items():
        for method in item:
            filled = path.replace("{number}", "1")
            for name in ("model", "dataset", "name"):
                filled = filled.replace(f"{{{name}}}", "some")
            filled = filled.replace("{request_id}", f"dr_{'0' * 26}")
            filled = filled.replace("{subject_request_id}", SUBJECT_REQUEST)
            filled = filled.replace("{key_id}", CURRENT)
            filled = filled.replace("{decision_id}", f"bd_{'0' * 26}")
            yield method.upper(), filled.replace("{webhook_id}", f"wh_{'0' * 26}")


def test_everything_but_health_and_public_keys_needs_a_key(app: FastAPI) -> None:
    stranger = TestClient(app)
    operations = list(_operations())
    callers.beat(app)
    for method, path in operations:
        answer = stranger.request(method, path)
        if path in OPEN:
            assert answer.status_code == 200, path
        elif path in OPENDSR:
            assert_problem(answer, 404, "opendsr-not-configured")
        else:
            assert_problem(answer, 401, "unlearn keys create")
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_key_without_the_scope_is_refused_everywhere(app: FastAPI) -> None:
    """And no scope is needless: each opens something."""
    operations = [one for one in _operations() if one[1] not in OPEN | OPENDSR]

    def opened(scope: str) -> Iterator[str]:
        client = callers.client(app, scope)
        for method, path in operations:
            body = {"json": {}} if method in {"POST", "PUT", "PATCH"} else {}
            answer = client.request(method, path, **body)
            if answer.status_code != 403:
                yield path

    assert list(opened("metrics:read")) == ["/metrics"]
    scopes = [scope.value for scope in keys.Scope if scope != keys.Scope.ADMIN]
    assert [scope for scope in scopes if next(opened(scope), None) is None] == []
    reader = callers.client(app, "models:read")
    assert_problem(reader.get("/v1/deletion-requests"), 403, "requests:read")
    assert_problem(reader.get("/v1/audit/events"), 403, "audit:read")


def test_admin_may_do_everything(app: FastAPI) -> None:
    client = callers.client(app, "admin")
    for path in ("/v1/deletion-requests", "/v1/audit/events", "/v1/models"):
        assert client.get(path).status_code == 200


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Bearer x",
        "Bearer unl_aaaaaaaaaaaaaaaaaaaaaaaaaa_wrong",
        "Basic dW5sOng=",
        "Bearer unl_%00_x",
        "Bearer \xff",
    ],
)
def test_what_is_not_a_key_in_force_is_refused(app: FastAPI, value: str) -> None:
    header = {"Authorization": value.encode("latin-1")}
    assert_problem(TestClient(app).get("/v1/deletion-requests", headers=header), 401)


def test_the_right_id_with_a_wrong_secret_is_refused(app: FastAPI) -> None:
    with app.state.sessions() as session:
        _, token = keys.create(session, "mine", ["admin"], actor="cli")
        session.commit()
    client = TestClient(app)
    for sent, status in [(token, 200), (token[:-1] + "!", 401), (token, 200)]:
        answer = client.get("/v1/audit/events", headers={"Authorization": f"Bearer {sent}"})
        assert answer.status_code == status


def test_an_expired_key_is_refused(app: FastAPI) -> None:
    with app.state.sessions() as session:
        _, token = keys.create(
            session, "old", ["admin"], db.now() - timedelta(seconds=1), actor="cli"
        )
        session.commit()
    client = TestClient(app, headers={"Authorization": f"Bearer {token}"})
    assert_problem(client.get("/v1/audit/events"), 401)


def test_a_revoked_key_is_refused_once_its_cached_row_is_old(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = callers.client(app, "audit:read")
    assert client.get("/v1/audit/events").status_code == 200
    with app.state.sessions() as session:
        [row] = keys.listing(session)
        keys.revoke(session, row.id, actor="cli")
        session.commit()
    monkeypatch.setattr(auth, "MAX_AGE_SECONDS", 0.0)
    assert_problem(client.get("/v1/audit/events"), 401)
    monkeypatch.undo()
    assert auth.MAX_AGE_SECONDS <= 1.0
    assert_problem(client.get("/v1/audit/events"), 401)


def test_no_body_is_read_from_somebody_without_a_key(app: FastAPI) -> None:
    answer = TestClient(app).post("/v1/deletion-requests", content=b"{not json")
    assert_problem(answer, 401)


def test_tokens_stay_out_of_the_log(app: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("service").propagate = True
    with caplog.at_level(logging.DEBUG), app.state.sessions() as session:
        _, token = keys.create(session, "mine", ["admin"], actor="cli")
        session.commit()
        client = TestClient(app, headers={"Authorization": f"Bearer {token}"})
        client.get("/v1/deletion-requests", params={"model": "planted"})
        client.post("/v1/deletion-requests", json={"dataset": "planted", "subject_id": "planted"})
    assert "GET /v1/deletion-requests 404" in caplog.text
    assert "POST /v1/deletion-requests 404" in caplog.text
    assert token.split("_", 2)[2] not in caplog.text
    ours = [line.getMessage() for line in caplog.records if line.name.startswith("service")]
    assert ours
    assert not any("planted" in line for line in ours)
