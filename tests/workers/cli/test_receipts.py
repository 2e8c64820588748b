"""``unlearn receipts verify`` on receipts as a person saves them."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from service.console import documents
from service.ledger.audit import canonical, log, notes, signing
from service.ledger.requests import receipts
from service.settings import Settings
from tests import histories
from tests.factories import NOW
from workers.cli import app


@pytest.fixture
def saved(sqlite_database: Engine, tmp_path: Path) -> Path:
    """A folder with a receipt in both forms, and the published keys."""
    settings = Settings(_env_file=None, state_dir=tmp_path)
    with Session(sqlite_database) as session:
        asked = histories.forgotten(session).asked[0]
        signer = signing.Signer.from_settings(settings)
        made = receipts.receipt(session, asked, signer=signer, now=NOW)
        for line in (made["chain"]["lines"][0]["seq"], made["chain"]["lines"][0]["seq"] - 1):
            proof = _proof(session, settings, signer, line)
            (tmp_path / f"line-{len(list(tmp_path.glob('line-*')))}.json").write_text(proof)
        content = canonical.encode(made)
    (tmp_path / "receipt.json").write_bytes(content)
    (tmp_path / "receipt.html").write_text(documents.receipt(content).html)
    (tmp_path / "keys.json").write_text(json.dumps(signing.public_keys(settings)))
    return tmp_path


def _proof(session: Session, settings: Settings, signer: signing.Signer, line: int) -> str:
    """The proof of a line as the service answers it."""
    tree = log.Log()
    size = tree.size(session)
    head = notes.Checkpoint(settings.log_origin, size, tree.root(session, size))
    return json.dumps(
        {
            "type": "log-inclusion",
            "line": line,
            "hash": tree.line_hash(session, line),
            "proof": [
                base64.b64encode(one).decode() for one in tree.inclusion(session, line, size)
            ],
            "checkpoint": notes.sign(head, signer.private_key),
        }
    )


def _verify(*words: str) -> tuple[int, str]:
    found = CliRunner().invoke(app, ["receipts", "verify", *words])
    return found.exit_code, " ".join(found.output.split())


@pytest.mark.parametrize("form", ["receipt.json", "receipt.html"])
def test_a_receipt_is_checked_with_the_published_keys(saved: Path, form: str) -> None:
    status, told = _verify(str(saved / form), "--keys", str(saved / "keys.json"))
    assert status == 0, told
    assert "receipt of the deletion request dr_" in told
    assert "anyone could have made it" in told  # it is the development key


@pytest.mark.parametrize("form", ["receipt.json", "receipt.html"])
def test_a_changed_receipt_fails(saved: Path, form: str) -> None:
    file = saved / form
    file.write_text(file.read_text().replace("completed", "cancelled"))
    status, told = _verify(str(file), "--keys", str(saved / "keys.json"))
    assert status == 1
    assert "NOT sound" in told


@pytest.mark.parametrize("form", ["receipt.json", "receipt.html"])
def test_a_proof_of_one_of_its_lines_is_accepted_and_of_another_refused(
    saved: Path, form: str
) -> None:
    words = (str(saved / form), "--keys", str(saved / "keys.json"), "--proof")
    status, told = _verify(*words, str(saved / "line-0.json"))
    assert status == 0, told
    assert "is in the log of" in told
    status, told = _verify(*words, str(saved / "line-1.json"))
    assert status == 1
    assert "no line of this receipt" in told
    status, told = _verify(*words, str(saved / "none.json"))
    assert status == 1
    assert "cannot be read" in told


def test_a_proof_of_consistency_that_names_a_line_proves_no_line(
    saved: Path, sqlite_database: Engine
) -> None:
    """Only the service signs checkpoints, but what lies beside one in a proof anybody can write."""
    line = json.loads((saved / "receipt.json").read_text())["chain"]["lines"][0]
    said = json.loads((saved / "line-0.json").read_text())
    with Session(sqlite_database) as session:
        tree = log.Log()
        size = tree.size(session)
        path = tree.consistency(session, 1, size)
        first = tree.root(session, 1)
    said |= {
        "type": "log-consistency",
        "line": line["seq"],
        "hash": line["hash"],
        "first": 1,
        "first_root": base64.b64encode(first).decode(),
        "proof": [base64.b64encode(one).decode() for one in path],
    }
    proof = saved / "other.json"
    proof.write_text(json.dumps(said))
    keys = ("--keys", str(saved / "keys.json"))
    status, told = _verify(str(proof), *keys)
    assert status == 0, told
    status, told = _verify(str(saved / "receipt.json"), *keys, "--proof", str(proof))
    assert status == 1
    assert "no line of this receipt" in told


def test_a_file_that_is_not_there_is_a_finding(saved: Path) -> None:
    status, told = _verify(str(saved / "none.json"))
    assert status == 1
    assert "cannot be read" in told
