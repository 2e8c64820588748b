"""A store in a bucket, for several files of tests; left out without the library for buckets."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.models_store.bucket_place import Place
from tests.s3 import Server


@pytest.fixture
def place(
    s3_environment: Server, sqlite_database: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Place:
    """A versioned bucket of its own, with at most 20 rows in a shard."""
    from models_store.object_store import shards

    monkeypatch.setattr(shards, "MOST_ROWS", 20)
    return Place(s3_environment, sqlite_database, tmp_path / "scratch")


@pytest.fixture
def parts_of_1000(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a blob of more than 1,000 bytes be in parts."""
    from models_store.object_store import blobs

    monkeypatch.setattr(blobs, "PART_BYTES", 1000)
