"""What it takes to ingest a large table: memory, and how long other writers wait for it.

    python -m benchmarks.ingest [--rows 1000000] [--typed] [--postgres URL]

A Parquet file with eight float features, record ids and subject ids is ingested by a process of its
own (``--typed``: as a typed table, with two columns of words and labels in words), into SQLite, or
into a database that is made on the PostgreSQL server and dropped after it. Memory is the process'
peak beyond what it has once everything is imported. Meanwhile another writer commits one line after
another; its longest wait is what counts.
"""

from __future__ import annotations

import argparse
import json
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import make_url, select

from benchmarks import results
from service.ledger.database import db, schema
from service.ledger.database.states import DatasetStatus
from service.ledger.database.tables import Dataset
from service.ledger.registry import datasets, keys
from service.settings import Settings
from workers.jobs import ingest
from workers.runtime import Runtime

FEATURES, CLASSES, ROWS_PER_SUBJECT, WORDS = 8, 10, 5, 400
MOST_MEGABYTES, MOST_SECONDS = 150.0, 1.0

_ROW_GROUP = 1 << 17
_PAUSE_SECONDS = 0.01
#: The child's two arguments after this one are the state directory and the database.
_CHILD = "--ingest-here"


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--postgres", help="a server's URL; SQLite without it")
    parser.add_argument("--typed", action="store_true", help="a typed table")
    asked = parser.parse_args()
    measured, targets = measure(asked.rows, server=asked.postgres, typed=asked.typed)
    results.console.print_json(data=measured)
    for target in targets:
        results.console.print(f"{target.name}: {target.value:.3g}, at most {target.bound:g}")


def measure(
    rows: int, *, server: str | None = None, typed: bool = False
) -> tuple[dict[str, Any], list[results.Target]]:
    """Ingest that many rows; megabytes beyond the imports, seconds, another writer's waits."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-ingest-") as home,
        _database(server, home) as url,
    ):
        settings = Settings(_env_file=None, state_dir=Path(home), database_url=url)
        write_source(settings.sources, rows, typed=typed)
        schema.upgrade(settings.database)
        measured = {"rows": rows, **_ingest(settings, {"table": {}} if typed else {})}
    return measured, [
        results.at_most(f"MB to ingest {rows} rows", measured["megabytes"], MOST_MEGABYTES),
        results.at_most("s that another writer waited", measured["longest_wait"], MOST_SECONDS),
    ]


def write_source(folder: Path, rows: int, *, typed: bool = False) -> Path:
    """Write ``folder``/table.parquet, in pieces."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = np.random.default_rng(1)
    writer: pq.ParquetWriter | None = None
    for first in range(0, rows, _ROW_GROUP):
        numbers = range(first, min(first + _ROW_GROUP, rows))
        labels = drawn.integers(0, CLASSES, len(numbers))
        table = pa.table(
            {
                "record_id": [f"visit-{row:08d}" for row in numbers],
                "subject_id": [f"person-{row // ROWS_PER_SUBJECT:07d}" for row in numbers],
                "label": [f"class {label}" for label in labels] if typed else labels,
                **{
                    f"w{place}": [f"word {n}" for n in drawn.integers(0, WORDS, len(numbers))]
                    for place in range(2 if typed else 0)
                },
                **{
                    f"f{place}": drawn.standard_normal(len(numbers)).astype(np.float32)
                    for place in range(FEATURES)
                },
            }
        )
        writer = writer or pq.ParquetWriter(folder / "table.parquet", table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()
    return folder / "table.parquet"


def _ingest(settings: Settings, given: dict[str, Any]) -> dict[str, Any]:
    engine = db.engine(settings.database)
    sessions = db.session_factory(engine)
    with sessions.begin() as session:
        source = {"path": "table.parquet", **given}
        datasets.create(session, "table", source=source, actor="bench", now=db.now())
    arguments = [_CHILD, str(settings.state_dir), settings.database]
    command = [sys.executable, "-m", "benchmarks.ingest", *arguments]
    waits = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        while child.poll() is None:
            began = time.perf_counter()
            with sessions.begin() as session:
                keys.create(session, "writer", ["models:read"], actor="bench")
            waits.append(time.perf_counter() - began)
            time.sleep(_PAUSE_SECONDS)
        assert child.stdout is not None
        told = child.stdout.read()
    with sessions.begin() as session:
        status, error = session.execute(select(Dataset.status, Dataset.error)).one()
    engine.dispose()
    if status != DatasetStatus.READY:
        raise RuntimeError(f"the dataset is {status}: {error}")
    return {**json.loads(told), "commits_beside_it": len(waits), "longest_wait": max(waits)}


def _ingest_here(state: str, database: str) -> None:
    settings = Settings(_env_file=None, state_dir=Path(state), database_url=database)
    runtime = Runtime.make(settings)
    before, began = _memory("VmRSS"), time.perf_counter()
    ingest.run_due(runtime)
    taken = time.perf_counter() - began
    print(json.dumps({"megabytes": (_memory("VmHWM") - before) / 1e6, "seconds": taken}))
    runtime.close()


def _memory(figure: str) -> int:
    """Bytes of this process' memory, now (VmRSS) or at its peak (VmHWM); Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == figure:
            return int(value.split()[0]) * 1024
    raise RuntimeError(f"/proc/self/status has no {figure}")


@contextmanager
def _database(server: str | None, home: str) -> Iterator[str]:
    """A new database's URL: a file in ``home`` where no server is named."""
    if server is None:
        yield f"sqlite:///{home}/ledger.db"
        return
    name = f"unlearn_ingest_{secrets.token_hex(4)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    try:
        yield make_url(server).set(database=name).render_as_string(hide_password=False)
    finally:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


if __name__ == "__main__":
    if sys.argv[1:2] == [_CHILD]:
        _ingest_here(*sys.argv[2:])
    else:
        main()
