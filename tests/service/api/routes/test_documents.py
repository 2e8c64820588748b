"""Reports and receipts over HTTP: forms, refusals, and that a page says no more than its JSON."""

from __future__ import annotations

import hashlib
import re
from base64 import b64decode, b64encode
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select

from service import audit_page
from service.api import negotiation
from service.ledger.audit import canonical, dsse, signing, statements
from service.ledger.database.tables import DeletionRequest
from service.settings import Settings
from tests.service.api import callers
from tests.service.api.callers import assert_problem
from tests.service.console import browsers, place

REPORT = "/v1/models/who/versions/{}/audit"
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


@pytest.fixture
def app(settings: Settings) -> Iterator[FastAPI]:
    with callers.application(settings) as running:
        place.fill(running)
        yield running


@pytest.fixture
def receipt(app: FastAPI) -> str:
    with app.state.sessions() as session:
        wanted = select(DeletionRequest.id).order_by(DeletionRequest.id)
        return f"/v1/deletion-requests/{session.scalars(wanted).first()}/receipt"


@pytest.fixture
def auditor(app: FastAPI) -> TestClient:
    return callers.client(app, "audit:read", "requests:read")


def test_the_accept_header_chooses_the_form(auditor: TestClient, receipt: str) -> None:
    for path in (REPORT.format(2), receipt):
        for accept, form in (
            ("*/*", "application/json"),
            ("application/json", "application/json"),
            (BROWSER["Accept"], "text/html; charset=utf-8"),
        ):
            answer = auditor.get(path, headers={"Accept": accept})
            assert answer.status_code == 200, answer.text
            assert answer.headers["content-type"] == form
            assert answer.headers["vary"] == "Accept"
            assert answer.headers["cache-control"] == "no-store"
        refused = auditor.get(path, headers={"Accept": "image/png"})
        assert_problem(refused, 406, "text/html")
        assert refused.headers["vary"] == "Accept"


def test_a_report_comes_as_an_in_toto_statement_in_a_dsse_envelope(auditor: TestClient) -> None:
    answer = auditor.get(REPORT.format(3), headers={"Accept": negotiation.DSSE})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == negotiation.DSSE
    assert answer.headers["vary"] == "Accept"
    keys = signing.read_keys(auditor.get("/.well-known/unlearning-keys.json").json())
    opened = dsse.open_envelope(answer.json())
    assert opened.check(keys) in keys
    assert statements.report_in(opened.payload)["version"] == 3


def test_a_receipt_is_signed_and_in_canonical_form(auditor: TestClient, receipt: str) -> None:
    answer = auditor.get(receipt)
    document = canonical.decode(answer.content)
    assert canonical.encode(document) == answer.content
    published = auditor.get("/.well-known/unlearning-keys.json").json()
    signing.check(document, signing.read_keys(published))
    assert document["request"]["id"] in receipt


def test_a_page_runs_nothing_loads_nothing_and_contains_its_signed_document(
    auditor: TestClient, receipt: str
) -> None:
    for path in (REPORT.format(3), receipt):
        answer = auditor.get(path, headers=BROWSER)
        tags = browsers.tags(answer.text)
        assert not [tag for tag, _ in tags if tag in ("script", "link", "img", "form", "iframe")]
        for tag, attributes in tags:
            assert "style" not in attributes, tag
            assert not [name for name in attributes if name.startswith("on")]
        [style] = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
        digest = b64encode(hashlib.sha256(style.encode()).digest()).decode()
        assert f"style-src 'sha256-{digest}'" in answer.headers["content-security-policy"]
        [link] = [of["href"] for tag, of in tags if tag == "a" and of.get("id") == "signed"]
        assert link is not None
        signed = b64decode(link.partition("base64,")[2])
        assert hashlib.sha256(signed).hexdigest() in answer.text
        kind = canonical.decode(signed)["type"]
        assert audit_page.made_again(kind, signed) == answer.text


def test_a_page_of_few_records_withholds_what_its_json_withholds(auditor: TestClient) -> None:
    page = auditor.get(REPORT.format(2), headers=BROWSER).text
    assert str(place.SECRET) not in page
    assert f"{place.SECRET:.3f}" not in page
    assert "fewer than 10 rows" in browsers.text(page)
    many = auditor.get(REPORT.format(3), headers=BROWSER).text
    assert f"{place.SECRET:.3f}" in browsers.text(many)


def test_a_key_without_the_scope_is_told_nothing_in_any_form(app: FastAPI, receipt: str) -> None:
    other = callers.client(app, "models:read", "requests:write")
    absent = f"/v1/deletion-requests/dr_{'0' * 26}/receipt"
    for headers in ({}, BROWSER, {"Accept": "image/png"}):
        for path in (REPORT.format(2), REPORT.format(99), "/v1/models/none/versions/1/audit"):
            answer = other.get(path, headers=headers)
            assert_problem(answer, 403, "audit:read")
            assert "who" not in answer.text
        for path in (receipt, absent):
            assert_problem(other.get(path, headers=headers), 403, "requests:read")
        stranger = TestClient(app, headers={"Authorization": "Bearer unl_none"})
        assert_problem(stranger.get(receipt, headers=headers), 401)
        assert_problem(stranger.get(REPORT.format(2), headers=headers), 401)


def test_documents_of_what_does_not_exist_are_not_found(auditor: TestClient, receipt: str) -> None:
    unknown = f"/v1/deletion-requests/dr_{'0' * 26}/receipt"
    for headers in ({}, BROWSER):
        assert_problem(auditor.get(unknown, headers=headers), 404)
        assert_problem(auditor.get(REPORT.format(99), headers=headers), 404)
    assert_problem(auditor.get("/v1/deletion-requests/anna/receipt"), 422)
