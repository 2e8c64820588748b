"""The audit chain as a log: its tree grows with it, and others accept its notes and proofs."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import metamorphic_log as others
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import delete, select, text
from sqlalchemy.orm import Session

from service import audit_file
from service.errors import Unprocessable
from service.ledger.audit import chain, log, merkle, notes, signing
from service.ledger.database import db, schema
from service.ledger.database.tables import AuditEvent
from service.settings import Settings
from tests.service.api import callers
from tests.service.api.callers import assert_problem

SIGNER = signing.Signer.from_seed(bytes(range(32)))
KEYS = {SIGNER.key_id: SIGNER.public_key}
ORIGIN = "example.org/audit"
VERIFIER = notes.verifier_key(ORIGIN, SIGNER.public_key)


def _grow(session: Session, lines: int) -> None:
    chain.append_many(
        session,
        actor="cli",
        lines=[
            chain.Line(chain.Action.MODEL_RUN_NOW, "model:m", {"n": number})
            for number in range(lines)
        ],
    )
    session.commit()


def _entries(session: Session) -> list[bytes]:
    found = session.scalars(select(AuditEvent.hash).order_by(AuditEvent.seq))
    return [bytes.fromhex(one) for one in found]


def _root(entries: list[bytes]) -> bytes:
    def subtree(level: int, index: int) -> bytes:
        part = entries[index << level : (index + 1) << level]
        return merkle.complete([merkle.leaf(one) for one in part])

    return merkle.root(len(entries), subtree)


def test_the_tree_grows_with_the_chain_over_whole_and_begun_tiles(session: Session) -> None:
    kept = log.Log()
    assert kept.root(session, kept.size(session)) == merkle.EMPTY
    sizes = []
    for more in (1, 254, 1, 1, 300, 600):
        _grow(session, more)
        size = kept.size(session)
        sizes.append(size)
        entries = _entries(session)
        assert size == len(entries)
        for tree in (kept, log.Log()):
            for count in sizes:
                assert tree.root(session, count) == _root(entries[:count])
    for count in sizes:
        for line in (1, count // 2 + 1, count):
            proof = kept.inclusion(session, line, count)
            assert merkle.includes(
                entries[line - 1], line - 1, count, proof, _root(entries[:count])
            )
    for first, second in pairwise(sizes):
        proof = kept.consistency(session, first, second)
        old, new = _root(entries[:first]), _root(entries[:second])
        assert merkle.continues(first, second, proof, old, new)


def test_a_tree_that_knew_another_database_begins_anew(session: Session, tmp_path: Path) -> None:
    engine = db.engine(f"sqlite:///{tmp_path}/earlier.db")
    schema.upgrade(engine)
    tree = log.Log()
    with Session(engine) as earlier:
        _grow(earlier, 300)
        before = tree.root(earlier, 300)
    engine.dispose()
    _grow(session, 280)
    assert tree.root(session, 280) == _root(_entries(session))
    assert tree.root(session, 256) != before


def test_what_the_log_does_not_have_is_refused_in_a_sentence(session: Session) -> None:
    _grow(session, 3)
    tree = log.Log()
    for call in (
        lambda: tree.inclusion(session, 4, 3),
        lambda: tree.inclusion(session, 1, 4),
        lambda: tree.consistency(session, 3, 2),
        lambda: tree.root(session, 4),
    ):
        with pytest.raises(Unprocessable):
            call()


def test_a_missing_line_is_told_and_not_passed_over(sqlite_database: Any) -> None:
    with Session(sqlite_database) as session:
        _grow(session, 5)
        names = session.scalars(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).all()
        for name in names:
            session.execute(text(f'DROP TRIGGER "{name}"'))
        session.execute(delete(AuditEvent).where(AuditEvent.seq == 3))
        session.commit()
        with pytest.raises(log.ChainBroken, match="audit check"):
            log.Log().root(session, 5)


def _note(size: int = 5, root: bytes = bytes(32), signer: signing.Signer = SIGNER) -> str:
    return notes.sign(notes.Checkpoint(ORIGIN, size, root), signer.private_key)


def test_a_checkpoint_is_a_signed_note_for_others() -> None:
    head = others.checkpoint_verify(_note(), [VERIFIER])
    assert (head.origin, head.size, head.root) == (ORIGIN, 5, bytes(32))
    assert notes.check(_note(), KEYS) == (notes.Checkpoint(ORIGIN, 5, bytes(32)), SIGNER.key_id)
    stranger = signing.Signer.from_seed(bytes(range(1, 33)))
    for wrong in (_note(signer=stranger), _note().replace("\n5\n", "\n6\n")):
        with pytest.raises(others.VerifyError):
            others.checkpoint_verify(wrong, [VERIFIER])
        with pytest.raises(ValueError, match="trusted keys"):
            notes.check(wrong, KEYS)


@pytest.mark.parametrize(
    "change",
    [
        lambda note: note.rstrip("\n"),
        lambda note: note.replace("\n\n", "\n"),
        lambda note: note.replace("\N{EM DASH} ", "- "),
        lambda note: note.replace("\n5\n", "\n05\n"),
        lambda note: note.replace("\n5\n", "\nfive\n"),
        lambda note: note.replace("AAAA", "AA", 1),
        lambda note: note + "\N{EM DASH} other !\n",
        lambda note: "",
    ],
)
def test_what_is_no_checkpoint_is_refused(change: Callable[[str], str]) -> None:
    with pytest.raises(ValueError, match=r"."):
        notes.check(change(_note()), KEYS)


@pytest.fixture
def app(settings: Settings) -> Any:
    with callers.application(settings.model_copy(update={"log_origin": ORIGIN})) as running:
        with running.state.sessions() as session:
            _grow(session, 300)
        yield running


@pytest.fixture
def auditor(app: FastAPI) -> TestClient:
    return callers.client(app, "audit:read")


def test_others_follow_the_log_over_http(app: FastAPI, auditor: TestClient) -> None:
    published = auditor.get("/.well-known/unlearning-keys.json").json()
    verifiers = [one["verifier_key"] for one in published["keys"]]
    older = auditor.get("/v1/audit/log/checkpoint")
    assert older.headers["content-type"] == "text/plain; charset=utf-8"
    kept = others.checkpoint_verify(older.text, verifiers)
    with app.state.sessions() as session:
        _grow(session, 77)
    newer = auditor.get("/v1/audit/log/checkpoint").text
    said = auditor.get("/v1/audit/log/consistency", params={"first": kept.size}).json()
    proof = [base64.b64decode(one) for one in said["proof"]]
    others.checkpoint_verify_consistency(older.text, newer, verifiers, proof)
    assert base64.b64decode(said["first_root"]) == kept.root
    for line in (1, 256, 257, kept.size):
        found = auditor.get("/v1/audit/log/inclusion", params={"line": line}).json()
        others.checkpoint_verify_inclusion(
            found["checkpoint"],
            verifiers,
            line - 1,
            merkle.leaf(bytes.fromhex(found["hash"])),
            [base64.b64decode(one) for one in found["proof"]],
        )


def test_the_offline_check_reads_checkpoints_and_proofs(app: FastAPI, auditor: TestClient) -> None:
    keys = signing.read_keys(auditor.get("/.well-known/unlearning-keys.json").json())
    note = auditor.get("/v1/audit/log/checkpoint").content
    inclusion = auditor.get("/v1/audit/log/inclusion", params={"line": 7, "size": 9}).json()
    consistency = auditor.get("/v1/audit/log/consistency", params={"first": 5, "second": 9}).json()
    for content in (note, json.dumps(inclusion).encode(), json.dumps(consistency).encode()):
        found = audit_file.verify_bytes(content, keys=keys)
        assert found.ok, found.lines()
        assert "anyone could have made it" in found.lines()[-1]  # it is the development key
        assert not audit_file.verify_bytes(content).ok
    for document, changes in (
        (inclusion, {"line": 6, "hash": "0" * 64, "proof": [], "checkpoint": note.decode()}),
        (consistency, {"first": 6, "first_root": inclusion["root"], "proof": ["AAAA"], "type": 3}),
    ):
        for member, value in changes.items():
            changed = json.dumps(document | {member: value}).encode()
            assert not audit_file.verify_bytes(changed, keys=keys).ok, member


@pytest.mark.parametrize(
    ("asked", "members"),
    [
        ("inclusion?line=7&size=9", {"size": 8, "root": "first_root"}),
        ("consistency?first=5&second=9", {"second": 8, "second_root": "first_root"}),
    ],
)
def test_every_member_of_a_proof_is_that_of_its_checkpoint(
    auditor: TestClient, asked: str, members: dict[str, Any]
) -> None:
    keys = signing.read_keys(auditor.get("/.well-known/unlearning-keys.json").json())
    other = auditor.get("/v1/audit/log/consistency", params={"first": 5, "second": 9}).json()
    said = auditor.get(f"/v1/audit/log/{asked}").json()
    assert audit_file.verify_bytes(json.dumps(said).encode(), keys=keys).ok
    for member, value in members.items():
        changed = said | {member: other.get(value, value)}
        found = audit_file.verify_bytes(json.dumps(changed).encode(), keys=keys)
        assert not found.ok, member


def test_the_log_needs_the_scope_and_refuses_what_it_does_not_have(
    app: FastAPI, auditor: TestClient
) -> None:
    other = callers.client(app, "models:read", "requests:read")
    for path in ("checkpoint", "inclusion?line=1", "consistency?first=1"):
        assert_problem(other.get(f"/v1/audit/log/{path}"), 403, "audit:read")
    for path in (
        "inclusion",
        "inclusion?line=0",
        "inclusion?line=9&size=8",
        "inclusion?line=1&size=100000",
        "inclusion?line=100000",
        "consistency?first=0",
        "consistency?first=9&second=8",
        "consistency?first=1&second=100000",
    ):
        assert_problem(auditor.get(f"/v1/audit/log/{path}"), 422)
