"""API keys in the ledger."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.errors import NotFound, Unprocessable
from service.ledger.audit import chain
from service.ledger.database.tables import AuditEvent
from service.ledger.registry import keys
from tests.factories import NOW


def _presented(token: str) -> keys.Presented:
    presented = keys.parse(token)
    assert presented is not None
    return presented


def test_a_key_opens_with_its_own_token_only(session: Session) -> None:
    row, token = keys.create(session, "one", ["audit:read"], actor="cli")
    _, other = keys.create(session, "two", ["audit:read"], actor="cli")
    assert _presented(token).id == row.id
    assert keys.opens(row, _presented(token), now=NOW)
    assert not keys.opens(row, _presented(other), now=NOW)


def test_only_the_hash_of_the_secret_is_kept(session: Session) -> None:
    row, token = keys.create(session, "one", ["requests:write", "requests:read"], actor="cli")
    secret = token.split("_", 2)[2]
    assert row.secret_hash == hashlib.sha256(secret.encode()).digest()
    assert row.scopes == ["requests:read", "requests:write"]
    chain.write(session)
    [line] = [chain.describe(line) for line in session.scalars(select(AuditEvent))]
    assert (line["action"], line["subject"]) == ("key:created", f"key:{row.id}")
    assert secret not in repr(line)


def test_an_expired_key_stays_shut(session: Session) -> None:
    until = NOW + timedelta(hours=1)
    row, token = keys.create(session, "one", ["admin"], until, actor="cli")
    assert keys.opens(row, _presented(token), now=until - timedelta(microseconds=1))
    assert not keys.opens(row, _presented(token), now=until)


def test_a_revoked_key_stays_shut_and_is_revoked_once(session: Session) -> None:
    row, token = keys.create(session, "one", ["admin"], actor="cli")
    keys.revoke(session, row.id, actor="cli", now=NOW)
    keys.revoke(session, row.id, actor="cli", now=NOW + timedelta(hours=1))
    assert row.revoked_at == NOW
    assert not keys.opens(row, _presented(token), now=NOW)
    chain.write(session)
    actions = session.scalars(select(AuditEvent.action).order_by(AuditEvent.seq)).all()
    assert actions == ["key:created", "key:revoked"]


def test_revoking_an_unknown_key_says_so(session: Session) -> None:
    with pytest.raises(NotFound):
        keys.revoke(session, "key_unknown", actor="cli")


@pytest.mark.parametrize("scopes", [[], ["everything"], ["admin", "root"]])
def test_unknown_or_no_scopes_are_refused(session: Session, scopes: list[str]) -> None:
    with pytest.raises(Unprocessable, match="requests:write"):
        keys.create(session, "one", scopes, actor="cli")


@pytest.mark.parametrize("name", ["", "x" * 65, "two\nlines"])
def test_unprintable_names_are_refused(session: Session, name: str) -> None:
    with pytest.raises(Unprocessable, match="name"):
        keys.create(session, name, ["admin"], actor="cli")


@pytest.mark.parametrize(
    "token", ["", "unl_", "unl_abc", "unl_abc_", "unl__abc", "sk_abc_def", "unl_ü_x", "unl_a_" * 99]
)
def test_what_does_not_look_like_a_token_is_none(token: str) -> None:
    assert keys.parse(token) is None


def test_a_secret_may_hold_underscores() -> None:
    assert _presented("unl_abc_d_e-f").secret_hash == hashlib.sha256(b"d_e-f").digest()
