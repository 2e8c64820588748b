"""Data keys of shards, on both databases."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.ledger.database import db
from service.ledger.registry import data_keys

ARRAY, OTHER, NEW = "a" * 64, "b" * 64, f"{data_keys.UNFINISHED}1"


def add(session: Session, array: str, number: int, digest: str, seconds_ago: float = 0) -> None:
    data_keys.add(
        session,
        array,
        number,
        digest=digest,
        rows=10,
        secret=digest.encode(),
        now=db.now() - timedelta(seconds=seconds_ago),
    )


def replace(session: Session, number: int, old: str, new: str) -> bool:
    return data_keys.replace(
        session, ARRAY, number, old=old, digest=new, secret=new.encode(), now=db.now()
    )


def shards(session: Session, array: str) -> list[tuple[str, bytes]]:
    session.expire_all()
    return [(one.digest, one.secret) for one in data_keys.of(session, array)]


def test_shards_of_an_array_come_in_the_order_of_its_rows(session: Session) -> None:
    for number in (2, 0, 1):
        add(session, ARRAY, number, f"d{number}")
    add(session, OTHER, 0, "other")
    assert shards(session, ARRAY) == [("d0", b"d0"), ("d1", b"d1"), ("d2", b"d2")]
    assert data_keys.digests(session) == {"d0", "d1", "d2", "other"}
    with pytest.raises(IntegrityError):
        add(session, ARRAY, 1, "again")


def test_a_written_array_gets_its_key_unless_that_has_shards(session: Session) -> None:
    add(session, NEW, 0, "d0")
    assert data_keys.rename(session, NEW, ARRAY)
    assert shards(session, NEW) == []
    add(session, NEW, 0, "late")
    assert not data_keys.rename(session, NEW, ARRAY)
    assert shards(session, ARRAY) == [("d0", b"d0")]


def test_a_shard_is_replaced_once_and_its_old_key_is_gone(session: Session) -> None:
    add(session, ARRAY, 0, "old")
    assert replace(session, 0, "old", "new")
    assert not replace(session, 0, "old", "newer")
    assert not replace(session, 1, "old", "newer")
    assert shards(session, ARRAY) == [("new", b"new")]


def test_keys_of_an_array_are_destroyed_together(session: Session) -> None:
    add(session, ARRAY, 0, "d0")
    add(session, ARRAY, 1, "d1")
    add(session, OTHER, 0, "other")
    assert sorted(data_keys.destroy(session, ARRAY)) == ["d0", "d1"]
    assert data_keys.destroy(session, ARRAY) == []
    assert data_keys.digests(session) == {"other"}


def test_only_arrays_that_got_no_shard_for_long_are_unfinished(session: Session) -> None:
    add(session, NEW, 0, "n0", seconds_ago=100)
    add(session, f"{NEW}2", 0, "m0", seconds_ago=100)
    add(session, f"{NEW}2", 1, "m1")
    add(session, ARRAY, 0, "d0", seconds_ago=100)
    assert data_keys.unfinished(session, before=db.now() - timedelta(seconds=50)) == [NEW]
