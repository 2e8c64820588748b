"""Secrets in the database: encrypted, bound to their row, readable after a change of the key."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from service.ledger.webhooks.sealing import NotOpened, Sealer
from service.settings import Settings

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OLD, NEW, OTHER = ("0123456789abcdef" * 2, "fedcba9876543210" * 2, "00112233445566778899" * 2)


def sealer(key: str, previous: str | None = None) -> Sealer:
    before = None if previous is None else SecretStr(previous)
    made = Settings(_env_file=None, subject_key=SecretStr(key), subject_key_previous=before)
    return Sealer.from_settings(made)


def test_a_sealed_secret_opens_for_its_owner_and_shows_nothing() -> None:
    sealed = sealer(OLD).seal(SECRET, owner="wh_1")
    assert sealer(OLD).open(sealed, owner="wh_1") == SECRET
    assert SECRET.encode() not in sealed
    assert sealer(OLD).seal(SECRET, owner="wh_1") != sealed
    with pytest.raises(NotOpened, match="rotate-secret"):
        sealer(OLD).open(sealed, owner="wh_2")
    with pytest.raises(NotOpened):
        sealer(OLD).open(sealed[:-1] + bytes([sealed[-1] ^ 1]), owner="wh_1")
    assert OLD not in repr(sealer(OLD))


def test_a_secret_survives_one_change_of_the_key() -> None:
    sealed = sealer(OLD).seal(SECRET, owner="wh_1")
    changed = sealer(NEW, previous=OLD)
    assert changed.open(sealed, owner="wh_1") == SECRET
    assert not changed.is_current(sealed, owner="wh_1")
    again = changed.seal(SECRET, owner="wh_1")
    assert changed.is_current(again, owner="wh_1")
    assert sealer(OTHER, previous=NEW).open(again, owner="wh_1") == SECRET
    with pytest.raises(NotOpened):
        sealer(OTHER, previous=NEW).open(sealed, owner="wh_1")
