"""Webhooks over HTTP, and what the ledger keeps of them."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select

from service.ledger.database.tables import AuditEvent, Webhook
from service.ledger.webhooks import endpoints
from service.ledger.webhooks.sealing import Sealer
from service.settings import Settings
from tests.service.api import callers
from tests.service.api.callers import assert_problem

URL = "https://93.184.215.14/hooks/s3cr3t-part"


SCOPES = ("webhooks:write",)


def add(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post("/v1/webhooks", json={"url": URL, **body})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    assert answer.headers["Location"] == f"/v1/webhooks/{made['id']}"
    return made


def row(app: FastAPI, webhook_id: str) -> Webhook:
    with app.state.sessions() as session:
        return endpoints.get(session, webhook_id)


def lines(app: FastAPI) -> list[AuditEvent]:
    with app.state.sessions() as session:
        return list(session.scalars(select(AuditEvent).order_by(AuditEvent.seq)))


def test_the_secret_is_shown_once_and_kept_encrypted(
    app: FastAPI, client: TestClient, settings: Settings
) -> None:
    made = add(client, description="CRM", types=["unlearn.deletion_request.completed"])
    assert made["secret"].startswith("whsec_")
    kept = row(app, made["id"])
    assert made["secret"].encode() not in kept.secret
    sealer = Sealer.from_settings(settings)
    assert sealer.open(kept.secret, owner=made["id"]) == made["secret"]
    shown = client.get(f"/v1/webhooks/{made['id']}").json()
    assert shown == {name: made[name] for name in made if name != "secret"} | {"behind": 1}
    assert client.get("/v1/webhooks").json()["items"] == [shown]
    assert (shown["url"], shown["status"], shown["scheme"]) == (URL, "active", "hmac-sha256")


def test_a_receiver_with_a_public_key_needs_no_secret(client: TestClient) -> None:
    made = add(client, scheme="ed25519")
    assert made["secret"] is None
    assert made["public_key"].startswith("whpk_")


def test_it_begins_after_what_has_happened_before(app: FastAPI, client: TestClient) -> None:
    before = lines(app)[-1].seq
    made = add(client)
    assert made["after"] == before
    assert lines(app)[-1].action == "webhook:created"


def test_neither_the_url_nor_the_secret_is_in_the_audit_chain(
    app: FastAPI, client: TestClient
) -> None:
    made = add(client)
    client.patch(f"/v1/webhooks/{made['id']}", json={"url": f"{URL}/2"})
    rotated = client.post(f"/v1/webhooks/{made['id']}:rotate-secret").json()
    said = str([(line.subject, line.data) for line in lines(app)])
    for private in ("s3cr3t-part", "93.184", made["secret"], rotated["secret"]):
        assert private not in said
    actions = [line.action for line in lines(app)]
    assert actions[-3:] == ["webhook:created", "webhook:changed", "webhook:secret_rotated"]


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/",
        "https://localhost/",
        "https://[::1]:8443/",
        "https://169.254.169.254/latest/meta-data",
        "https://10.0.0.7/",
        "http://93.184.215.14/",
        "https://user:pw@93.184.215.14/",
        "not a url",
        "gopher://93.184.215.14/",
    ],
)
def test_malformed_and_internal_urls_are_refused_and_change_nothing(
    app: FastAPI, client: TestClient, url: str
) -> None:
    before = len(lines(app))
    refused = client.post("/v1/webhooks", json={"url": url})
    assert_problem(refused, 422, "bad-destination")
    assert url not in refused.text
    assert len(lines(app)) == before
    made = add(client)
    assert_problem(client.patch(f"/v1/webhooks/{made['id']}", json={"url": url}), 422)
    assert row(app, made["id"]).url == URL


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"url": ""},
        {"url": "https://93.184.215.14/" + "a" * 3000},
        {"url": URL, "types": []},
        {"url": URL, "types": ["unlearn.everything"]},
        {"url": URL, "scheme": "rsa"},
        {"url": URL, "secret": "whsec_mine"},
    ],
)
def test_bodies_that_make_no_sense_are_refused(client: TestClient, body: dict[str, Any]) -> None:
    assert_problem(client.post("/v1/webhooks", json=body), 422)
    assert client.get("/v1/webhooks").json()["items"] == []


def test_a_rotated_secret_signs_beside_the_new_one_for_the_overlap(
    app: FastAPI, client: TestClient, settings: Settings
) -> None:
    made = add(client)
    path = f"/v1/webhooks/{made['id']}:rotate-secret"
    rotated = client.post(path, json={"overlap_seconds": 60})
    assert rotated.status_code == 200
    assert rotated.json()["secret"] != made["secret"]
    assert rotated.json()["previous_secret_until"] is not None
    kept = row(app, made["id"])
    sealer = Sealer.from_settings(settings)
    assert kept.previous_secret is not None
    assert sealer.open(kept.previous_secret, owner=made["id"]) == made["secret"]
    assert sealer.open(kept.secret, owner=made["id"]) == rotated.json()["secret"]
    assert_problem(client.post(path, json={"overlap_seconds": 30 * 86_400}), 422)


def test_a_webhook_is_changed_disabled_enabled_and_removed(
    app: FastAPI, client: TestClient
) -> None:
    path = f"/v1/webhooks/{add(client, description='CRM')['id']}"
    kinds = ["unlearn.version.promoted", "unlearn.version.purged"]
    changed = client.patch(path, json={"types": kinds[::-1], "description": None}).json()
    assert (changed["types"], changed["description"]) == (kinds, None)
    assert client.patch(path, json={"types": None}).json()["types"] is None
    disabled = client.patch(path, json={"status": "disabled"}).json()
    assert (disabled["status"], disabled["status_reason"]) == ("disabled", "disabled by its owner")
    assert_problem(client.post(f"{path}:test"), 409, "enable it first")
    enabled = client.patch(path, json={"status": "active"}).json()
    assert (enabled["status"], enabled["status_reason"]) == ("active", None)
    assert enabled["after"] == disabled["after"]
    assert_problem(client.patch(path, json={}), 422)
    assert client.delete(path).status_code == 204
    assert_problem(client.get(path), 404, "GET /v1/webhooks")
    assert_problem(client.delete(path), 404)
    assert [line.action.partition(":")[2] for line in lines(app)][-5:] == [
        "changed",
        "changed",
        "disabled",
        "enabled",
        "removed",
    ]


def test_events_are_replayed_or_skipped_from_a_line_or_a_moment(
    app: FastAPI, client: TestClient
) -> None:
    path = f"/v1/webhooks/{add(client)['id']}"
    last = lines(app)[-1].seq
    assert client.post(f"{path}:replay", json={"after": 0}).json()["after"] == 0
    assert client.post(f"{path}:replay", json={"after": last}).json()["after"] == last
    again = client.post(f"{path}:replay", json={"since": "2026-01-01T00:00:00Z"}).json()
    assert again["after"] == 0
    late = client.post(f"{path}:replay", json={"since": "2999-01-01T00:00:00Z"}).json()
    assert late["after"] == lines(app)[-1].seq - 1
    assert_problem(client.post(f"{path}:replay", json={"after": last + 50}), 422, "chain ends")
    for body in ({}, {"after": 1, "since": "2026-01-01T00:00:00Z"}, {"after": -1}, {"since": 7}):
        assert_problem(client.post(f"{path}:replay", json=body), 422)


def test_there_is_a_limit(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "MAX_WEBHOOKS", 1)
    add(client)
    assert_problem(client.post("/v1/webhooks", json={"url": URL}), 409, "remove one first")


def test_other_scopes_see_nothing_of_webhooks(app: FastAPI, client: TestClient) -> None:
    made = add(client)
    other = callers.client(app, "requests:read", "models:write", "audit:read")
    assert_problem(other.get("/v1/webhooks"), 403, "webhooks:write")
    assert_problem(other.get(f"/v1/webhooks/{made['id']}/deliveries"), 403)
    assert client.get(f"/v1/webhooks/{made['id']}/deliveries").json()["items"] == []
