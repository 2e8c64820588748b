"""Counts that do not depend on how busy the machine is: statements, blocks, rows, seconds."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import Engine, event


@dataclass
class Counted:
    """What was counted in between."""

    statements: int = 0
    #: Blocks of 8 KiB that the database touched, in its cache or not.
    blocks: int = 0
    #: Rows inserted and updated.
    written: int = 0
    #: Processor seconds of the compute process.
    cpu: float = 0.0
    texts: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The numbers."""
        return {name: value for name, value in asdict(self).items() if name != "texts"}


def flush_at_return(engine: Engine) -> None:
    """Have every connection report its counters when it goes back to the pool.

    The server collects them once in a while only, and nothing else asks for it.
    """

    @event.listens_for(engine, "checkin")
    def _flush(connection: Any, _record: Any) -> None:
        if connection is not None:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_stat_force_next_flush()")
            connection.commit()


@contextmanager
def count(engine: Engine, *, pid: int | None = None) -> Iterator[Counted]:
    """Count within the block; ``pid`` is the compute process."""
    counted = Counted()

    def saw(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        counted.statements += 1
        counted.texts.append(statement)

    blocks, written = _database(engine)
    cpu = processor_seconds(pid)
    event.listen(engine, "after_cursor_execute", saw)
    try:
        yield counted
    finally:
        event.remove(engine, "after_cursor_execute", saw)
    after = _database(engine)
    counted.blocks, counted.written = after[0] - blocks, after[1] - written
    counted.cpu = processor_seconds(pid) - cpu


def median(
    engine: Engine, runs: Sequence[Callable[[], object]], *, pid: int | None = None
) -> dict[str, Any]:
    """The median of each counter over the runs."""
    seen = []
    for run in runs:
        with count(engine, pid=pid) as counted:
            run()
        seen.append(counted.to_json())
    return middle(seen)


def middle(seen: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The median of each counter."""
    return {name: statistics.median(one[name] for one in seen) for name in seen[0]}


def processor_seconds(pid: int | None) -> float:
    """User and system seconds of a process, all its threads together."""
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _database(engine: Engine) -> tuple[int, int]:
    """Blocks touched and rows written in this database so far, by everybody.

    Asked for over a connection to another database: it must not count itself.
    """
    url = engine.url.set(drivername="postgresql", database="postgres")
    with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as other:
        found = other.execute(
            "SELECT blks_hit + blks_read, tup_inserted + tup_updated"
            " FROM pg_stat_database WHERE datname = %s",
            [engine.url.database],
        ).fetchone()
    assert found is not None
    return int(found[0]), int(found[1])
