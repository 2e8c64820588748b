"""The offline check of saved pages: the document in them, and their words."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from service import audit_file
from service.console import documents
from service.ledger.audit import canonical, statements
from service.ledger.database import db, schema
from service.ledger.reports import report
from service.ledger.requests import receipts
from tests import histories
from tests.factories import DIGESTER, NOW
from tests.histories import SIGNER

KEYS = {SIGNER.key_id: SIGNER.public_key}


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    engine = db.engine(f"sqlite:///{tmp_path_factory.mktemp('pages')}/ledger.db")
    schema.upgrade(engine)
    with db.session_factory(engine)() as session:
        yield session
    engine.dispose()


@pytest.fixture(scope="module")
def pages(ledger: Session) -> dict[str, str]:
    """A page of a report, and one of a receipt."""
    history = histories.forgotten(ledger)
    made = report.report(ledger, history.version, digester=DIGESTER, signer=SIGNER, now=NOW)
    handed = receipts.receipt(ledger, history.asked[0], signer=SIGNER, now=NOW)
    return {
        "report": documents.report(canonical.encode(made)).html,
        "receipt": documents.receipt(canonical.encode(handed)).html,
    }


@pytest.mark.parametrize("kind", ["report", "receipt"])
def test_a_saved_page_is_sound_with_the_published_keys(
    pages: dict[str, str], kind: str, tmp_path: Path
) -> None:
    saved = tmp_path / "page.html"
    saved.write_text(pages[kind] + "\n")
    assert audit_file.verify_file(saved).ok
    told = audit_file.verify_bytes(saved.read_bytes(), keys=KEYS).lines()
    assert told[-1] == "The file is sound."
    assert any("words and pictures" in line for line in told)


@pytest.mark.parametrize("kind", ["report", "receipt"])
@pytest.mark.parametrize(
    ("words", "others", "because"),
    [
        ("What was done", "What was never done", "words or pictures"),
        ("</main>", "<p>And all backups are gone.</p></main>", "words or pictures"),
        ('id="signed"', 'id="other"', "does not contain one signed document"),
        ("</main>", '<a id="signed" href="data:,"></a></main>', "one signed document"),
        ("data:application/json;base64,", "https://example.org/", "not in the page itself"),
        ("data:application/json;base64,", "data:application/json;base64,!", "not base64"),
        ("data:application/json;base64,", "data:application/json;base64,AAAA", "cannot be checked"),
    ],
)
def test_a_changed_page_is_refused(
    pages: dict[str, str], kind: str, words: str, others: str, because: str
) -> None:
    changed = pages[kind].replace(words, others)
    assert changed != pages[kind]
    found = audit_file.verify_bytes(changed.encode(), keys=KEYS)
    assert not found.ok
    assert any(because in line for line in found.lines()), found.lines()


def test_a_page_around_a_changed_document_is_refused(ledger: Session) -> None:
    history = histories.forgotten(ledger)
    handed = receipts.receipt(ledger, history.asked[0], signer=SIGNER, now=NOW)
    handed["request"]["due_at"] = handed["at"]
    page = documents.receipt(canonical.encode(handed)).html
    found = audit_file.verify_bytes(page.encode(), keys=KEYS)
    assert any("was changed" in line for line in found.lines())


def test_a_signed_document_that_no_page_can_show_is_an_answer_and_no_crash() -> None:
    head = canonical.encode(SIGNER.sign({"type": "chain-head", "seq": 0}))
    unknown = b"<!doctype html><![section["
    for content in (b"<!doctype html><p>", b"<!DOCTYPE html>\xff", unknown, head):
        assert isinstance(audit_file.verify_bytes(content, keys=KEYS).ok, bool)


@pytest.mark.parametrize("kind", ["head", "envelope"])
def test_words_around_a_document_that_has_no_page_are_refused(ledger: Session, kind: str) -> None:
    """Anybody can put a document of the service's between words of their own."""
    history = histories.forgotten(ledger)
    made = report.report(ledger, history.version, digester=DIGESTER, signer=SIGNER, now=NOW)
    signed = {"head": made["chain"]["head"], "envelope": statements.envelope(made, signer=SIGNER)}
    content = canonical.encode(signed[kind])
    assert audit_file.verify_bytes(content, keys=KEYS).ok
    data = base64.b64encode(content).decode()
    page = (
        "<!doctype html><p>Everything about you was deleted.</p>"
        f'<a id="signed" href="data:application/json;base64,{data}">signed</a>'
    )
    found = audit_file.verify_bytes(page.encode(), keys=KEYS)
    assert not found.ok
    assert any("somebody else wrote its words" in line for line in found.lines())
