"""The store of a worker; its rows may be encrypted under keys that the ledger keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from models_store import Store, open_store
from models_store.data_keys import Shard
from service.ledger.database import db
from service.ledger.registry import data_keys
from service.settings import Settings


def open_for(settings: Settings, engine: Engine, now: Callable[[], datetime] = db.now) -> Store:
    """Return the store of these settings; the keys of its rows are kept in the database."""
    return open_store(
        settings.store_location,
        data_keys=LedgerKeys(engine, now),
        scratch=settings.scratch,
        timeout_seconds=settings.store_timeout_seconds,
    )


class LedgerKeys:
    """``models_store.data_keys.DataKeys`` in the database; each call is its own transaction."""

    def __init__(self, engine: Engine, now: Callable[[], datetime] = db.now) -> None:
        self._sessions = db.session_factory(engine)
        self._now = now

    def of(self, array: str) -> Sequence[Shard]:
        """Return the shards of an array in the order of its rows; empty if there are none."""
        with self._sessions() as session:
            found = data_keys.of(db.read_only(session), array)
            return [Shard(one.digest, one.rows, one.secret) for one in found]

    def add(self, array: str, number: int, shard: Shard) -> None:
        """Record a new shard of an array that is being written."""
        with self._writing() as session:
            data_keys.add(
                session,
                array,
                number,
                digest=shard.digest,
                rows=shard.rows,
                secret=shard.key,
                now=self._now(),
            )

    def rename(self, array: str, to: str) -> bool:
        """Name a written array by its key; False, unchanged, if that key has shards already."""
        with self._writing() as session:
            return data_keys.rename(session, array, to)

    def replace(self, array: str, number: int, old: str, new: Shard) -> bool:
        """Replace the shard of digest ``old`` and its key; False, unchanged, if it has changed."""
        with self._writing() as session:
            return data_keys.replace(
                session,
                array,
                number,
                old=old,
                digest=new.digest,
                secret=new.key,
                now=self._now(),
            )

    def destroy(self, array: str) -> Sequence[str]:
        """Destroy the keys of an array; return the digests of its shards."""
        with self._writing() as session:
            return data_keys.destroy(session, array)

    def unfinished(self, *, older_than_seconds: float) -> Sequence[str]:
        """Return the names of unfinished arrays that got no shard for this long."""
        with self._sessions() as session:
            before = self._now() - timedelta(seconds=older_than_seconds)
            return data_keys.unfinished(db.read_only(session), before=before)

    def digests(self) -> set[str]:
        """Return the digests of all shards that have a key."""
        with self._sessions() as session:
            return data_keys.digests(db.read_only(session))

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        with self._sessions() as session, session.begin():
            yield session
