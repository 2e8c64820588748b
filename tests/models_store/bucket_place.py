"""A versioned bucket with a store in it, and the ledger that keeps its keys."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sqlalchemy import Engine, select

from models_store import Store, open_store, tensors
from service.ledger.database import db
from service.ledger.database.tables import DataKey
from tests.s3 import Server
from workers.stores import LedgerKeys

ROWS = np.random.default_rng(5).integers(1, 256, size=(60, 96), dtype=np.uint8)


class Place:
    """A versioned bucket with a store in it, and the ledger that keeps its keys."""

    def __init__(self, server: Server, engine: Engine, scratch: Path) -> None:
        self.server, self.engine, self.scratch = server, engine, scratch
        self.bucket = server.bucket(versioned=True)
        self.store = self.open()

    def open(self, timeout_seconds: float = 30.0) -> Store:
        return open_store(
            f"s3://{self.bucket}/p",
            data_keys=LedgerKeys(self.engine),
            scratch=self.scratch,
            timeout_seconds=timeout_seconds,
        )

    def write(self, rows: np.ndarray = ROWS, name: str = "visits") -> str:
        with self.store.rows.writer(name=name, dtype=rows.dtype, shape=rows.shape[1:]) as writer:
            writer.append(rows, np.ones(len(rows), np.int64))
            return writer.finish(
                splits=np.zeros(len(rows), np.uint8), classes=2, source={"file": "visits.csv"}
            ).key

    def save(self, size: int = 1000, seed: int = 0) -> str:
        named = {"w": np.random.default_rng(seed).normal(size=size)}
        return tensors.save(self.store.blobs, named, {}, kind="checkpoints").digest

    def secrets(self) -> list[bytes]:
        """Every data key in the database."""
        with db.session_factory(self.engine)() as session:
            return list(session.scalars(select(DataKey.secret)))

    def names(self) -> set[str]:
        return set(self.server.objects(self.bucket))
