"""Reports and receipts in a real browser: they print on three sheets, and axe finds nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from service import audit_file
from service.console import documents
from service.ledger.audit import canonical
from service.ledger.reports import report
from service.ledger.requests import receipts
from tests import factories, histories
from tests.factories import DIGESTER, NOW
from tests.integrations.test_console import SERIOUS, WCAG
from tests.unlearning.verification.test_report import documented

#: It starts a browser: `make test-integrations`.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SHEETS = 3
#: Records of each request, and requests of the batch: more than a report's table lists.
RECORDS, REQUESTS = 12, 10


@pytest.fixture
def pages(sqlite_database: Engine) -> Iterator[dict[str, str]]:
    """A page of a version with every measurement, one of few records, and a receipt."""
    with Session(sqlite_database) as session:
        few = histories.forgotten(session)
        many = _many(session)
        yield {
            "few": _report(session, few.version),
            "many": _report(session, many),
            "receipt": documents.receipt(
                canonical.encode(
                    receipts.receipt(session, few.asked[0], signer=histories.SIGNER, now=NOW)
                )
            ).html,
        }


def _many(session: Session) -> Any:
    """A version that forgot many records for many requests, with all that can be measured."""
    data = factories.dataset(session, rows=RECORDS * REQUESTS + 40)
    owner = factories.model(session, data)
    base = factories.version(session, owner)
    asked = [
        factories.request(session, data, rows=range(RECORDS * at, RECORDS * (at + 1)))
        for at in range(REQUESTS)
    ]
    made = factories.unlearned(session, owner, base, asked)
    measured = documented(3)
    factories.verification(
        session,
        made,
        verdict=measured["verdict"],
        measured=measured,
        set_changes={"revision": 0, "rows": {}},
    )
    histories.lines(session, owner, base, data={}, verdict="exact")
    histories.lines(session, owner, made, data={}, verdict=measured["verdict"])
    histories.batch_lines(session, made)
    for one in asked:
        histories.request_lines(session, one)
    session.commit()
    return made


def _report(session: Session, version: Any) -> str:
    made = report.report(session, version, digester=DIGESTER, signer=histories.SIGNER, now=NOW)
    return documents.report(canonical.encode(made)).html


def _opened(chromium: Any, page: Path, **options: Any) -> Any:
    shown = chromium.new_context(**options).new_page()
    shown.problems = []
    shown.on("console", lambda said: said.type == "error" and shown.problems.append(said.text))
    shown.on("request", lambda asked: shown.problems.append(asked.url))
    shown.goto(page.as_uri())
    # The page itself is the one request.
    assert shown.problems == [page.as_uri()]
    return shown


@pytest.mark.parametrize("paper", ["A4", "Letter"])
def test_documents_print_on_few_sheets(
    chromium: Any, pages: dict[str, str], tmp_path: Path, paper: str
) -> None:
    for name, html in pages.items():
        saved = tmp_path / f"{name}.html"
        saved.write_text(html)
        printed = _opened(chromium, saved).pdf(format=paper, prefer_css_page_size=False)
        sheets = len(re.findall(rb"/Type\s*/Page[^s]", printed))
        assert 1 <= sheets <= SHEETS, (name, sheets)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_documents_are_accessible(
    chromium: Any, pages: dict[str, str], tmp_path: Path, scheme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    for name, html in pages.items():
        saved = tmp_path / f"{name}.html"
        saved.write_text(html)
        shown = _opened(chromium, saved, color_scheme=scheme, bypass_csp=True)
        found = Axe().run(shown, options={"runOnly": {"type": "tag", "values": WCAG}})
        serious = [one for one in found.response["violations"] if one["impact"] in SERIOUS]
        assert not serious, (name, [(one["id"], one["nodes"][0]["html"]) for one in serious])


def test_the_signed_file_in_a_page_is_saved_as_it_was_signed(
    chromium: Any, pages: dict[str, str], tmp_path: Path
) -> None:
    for name, html in pages.items():
        saved = tmp_path / f"{name}.html"
        saved.write_text(html)
        shown = _opened(chromium, saved, accept_downloads=True)
        with shown.expect_download() as download:
            shown.locator("#signed").click()
        copy = tmp_path / f"{name}.json"
        download.value.save_as(copy)
        keys = {histories.SIGNER.key_id: histories.SIGNER.public_key}
        assert audit_file.verify_bytes(copy.read_bytes(), keys=keys).ok
        assert audit_file.verify_bytes(saved.read_bytes(), keys=keys).ok
