"""Datasets in the ledger."""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlalchemy import Engine, delete, func, select
from sqlalchemy.orm import Session

from service import sources
from service.errors import Conflict, NotFound, Unprocessable
from service.ledger.database import db
from service.ledger.database.identifiers import Origin
from service.ledger.database.states import DatasetStatus, IllegalMove
from service.ledger.database.tables import AuditEvent, Dataset, Record
from service.ledger.registry import datasets, records
from service.ledger.registry.datasets import Counts, Ingested
from service.ledger.registry.records import Row
from tests.factories import NOW
from unlearning import inputs

FOUND = Ingested(
    array_key="b" * 64,
    splits={},
    shape=(3, 4, 4),
    dtype="uint8",
    classes=5,
    record_id_origin=Origin.SOURCE,
    subject_id_origin=Origin.SOURCE,
    input=inputs.facts(inputs.kind("image", {}), (3, 4, 4), "uint8"),
)


def _create(session: Session, name: str = "faces") -> Dataset:
    return datasets.create(
        session, name, source={"path": "faces.npz", "format": "npz"}, actor="key:k", now=NOW
    )


def _found(*rows: Row) -> Ingested:
    counts = Counter(datasets.SPLITS[row.split] for row in rows)
    return dataclasses.replace(FOUND, splits=dict(counts))


def _complete(session: Session, made: Dataset, rows: Sequence[Row]) -> None:
    """Write all records in slices and make the dataset ready."""
    for first in range(0, len(rows), records.SLICE):
        records.write(session, made, rows[first : first + records.SLICE], first=first)
    datasets.complete(session, made, _found(*rows), actor="worker:w", now=NOW)


def _actions(session: Session) -> list[str]:
    return list(session.scalars(select(AuditEvent.action).order_by(AuditEvent.seq)))


def test_an_ingest_writes_a_record_per_row(session: Session) -> None:
    made = _create(session)
    rows = [Row(f"r{i}", None if i % 2 else f"{i:064x}", i % 5, i % 3) for i in range(25_000)]
    _complete(session, made, rows)
    session.commit()
    made = datasets.get_ready(session, "faces")
    assert (made.rows, made.shape, made.classes, made.progress) == (25_000, [3, 4, 4], 5, 1.0)
    stored = session.execute(
        select(
            Record.row, Record.record_id, Record.subject_digest, Record.label, Record.split
        ).order_by(Record.row)
    ).all()
    assert [tuple(row) for row in stored] == [(i, *row) for i, row in enumerate(rows)]
    counts = datasets.counts(session, made)
    assert counts.splits == {"train": 8334, "validation": 8333, "audit": 8333}
    assert (counts.forgotten, counts.erased) == (0, 0)
    assert _actions(session) == ["dataset:created", "dataset:ingested"]


def test_the_counts_read_the_forgotten_records_only(session: Session) -> None:
    made = _create(session)
    rows = [Row(f"r{i}", None, i % 5, i % 3) for i in range(30)]
    _complete(session, made, rows)
    for row in (4, 7, 9):
        record = session.get_one(Record, (made.id, row))
        record.excluded_revision, record.erased_at = 1, NOW if row == 7 else None
    session.flush()
    before = datasets.counts(session, made)
    session.execute(
        delete(Record).where(Record.dataset_id == made.id, Record.excluded_revision.is_(None))
    )
    assert datasets.counts(session, made) == before
    assert before == Counts({"train": 10, "validation": 10, "audit": 10}, forgotten=3, erased=1)


def test_a_repeated_record_id_leaves_nothing_half_ingested(session: Session) -> None:
    made = _create(session)
    session.commit()
    rows = [Row("a", None, 0, 0), Row("b", None, 0, 0), Row("a", None, 1, 0)]
    with pytest.raises(Unprocessable, match="Row 3"):
        _complete(session, made, rows)
    session.rollback()
    made = datasets.get(session, "faces")
    assert made.status == DatasetStatus.INGESTING
    assert session.scalar(select(func.count()).select_from(Record)) == 0


def test_a_record_id_repeated_far_away_is_refused_without_being_quoted(session: Session) -> None:
    made = _create(session)
    session.commit()
    rows = [Row(f"r{i}", None, 0, 0) for i in range(10_001)]
    rows.append(Row("r7", None, 0, 0))
    with pytest.raises(Unprocessable, match="that of another row") as caught:
        _complete(session, made, rows)
    assert "r7" not in str(caught.value)


def test_records_are_written_one_after_the_other_and_removed_from_the_end(
    session: Session,
) -> None:
    made = _create(session)
    rows = [Row(f"r{i}", None, 0, i % 2) for i in range(25_000)]
    records.write(session, made, rows[:12_000], first=0)
    for first in (0, 11_999, 12_001):
        with pytest.raises(IllegalMove, match="is not next"):
            records.write(session, made, rows[first : first + 5], first=first)
    with pytest.raises(IllegalMove, match="12000 records for 25000 rows"):
        datasets.complete(session, made, _found(*rows), actor="worker:w", now=NOW)
    with pytest.raises(IllegalMove, match="remove them first"):
        datasets.fail(session, made, error="late", actor="worker:w", now=NOW)
    assert records.remove(session, made.id, records.SLICE)
    assert sorted(session.scalars(select(Record.row))) == list(range(2_000))
    assert not records.remove(session, made.id, records.SLICE)
    assert records.written(session, made.id) == 0
    assert not records.remove(session, made.id, records.SLICE)
    _complete(session, made, rows)
    assert made.split_rows == {"train": 12_500, "validation": 12_500, "audit": 0}


def test_records_of_a_dataset_that_is_not_ready_are_not_counted(session: Session) -> None:
    made = _create(session)
    records.write(session, made, [Row("a", None, 0, 0)], first=0)
    counts = datasets.counts(session, made)
    assert counts == Counts(dict.fromkeys(datasets.SPLITS, 0), forgotten=0, erased=0)


@pytest.mark.parametrize("record_id", ["", "x" * 256, "a\0b"])
def test_a_record_id_that_cannot_be_stored_is_refused_by_its_row(
    sqlite_database: Engine, record_id: str
) -> None:
    with db.session_factory(sqlite_database)() as session:
        made = _create(session)
        rows = [Row("a", None, 0, 0), Row(record_id, None, 0, 0)]
        with pytest.raises(Unprocessable, match="Row 2"):
            _complete(session, made, rows)


def test_a_dataset_is_completed_or_refused_once(session: Session) -> None:
    made = _create(session)
    datasets.progress(session, made.id, 0.4)
    session.refresh(made)
    assert made.progress == 0.4
    _complete(session, made, [Row("a", None, 0, 0)])
    with pytest.raises(IllegalMove):
        _complete(session, made, [Row("b", None, 0, 0)])
    with pytest.raises(IllegalMove):
        datasets.fail(session, made, error="late", actor="worker:w", now=NOW)
    datasets.progress(session, made.id, 0.1)
    session.refresh(made)
    assert (made.status, made.progress) == (DatasetStatus.READY, 1.0)


def test_a_dataset_is_used_only_when_it_is_ready(session: Session) -> None:
    with pytest.raises(NotFound):
        datasets.get_ready(session, "faces")
    made = _create(session)
    with pytest.raises(Conflict, match="still being ingested"):
        datasets.get_ready(session, "faces")
    datasets.fail(session, made, error="row 2: label 7 of 5", actor="worker:w", now=NOW)
    with pytest.raises(Conflict, match="could not be ingested"):
        datasets.get_ready(session, "faces")
    assert made.error == "row 2: label 7 of 5"
    assert datasets.waiting(session) == []


def test_of_two_who_take_a_name_at_once_one_is_told(database: Engine) -> None:
    sessions = db.session_factory(database)
    start = threading.Barrier(2)
    outcomes: list[str] = []

    def take() -> None:
        with sessions() as session:
            start.wait()
            try:
                _create(session)
                session.commit()
                outcomes.append("made")
            except Conflict:
                outcomes.append("told")

    threads = [threading.Thread(target=take) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["made", "told"]


def test_a_source_is_found_under_the_data_root_only(tmp_path: Path) -> None:
    root = tmp_path / "data"
    (root / "inside").mkdir(parents=True)
    (root / "good").symlink_to(root / "inside")
    (root / "bad").symlink_to(tmp_path)
    (root / "circle").symlink_to(root / "circle")
    assert sources.locate(root, "inside/a.npz") == root / "inside" / "a.npz"
    assert sources.locate(root, "good/a.npz") == root / "inside" / "a.npz"
    for path in ("bad/a.npz", "bad", "/etc", "../data/a", "inside/../../x", ".", "", "a\0", "\\x"):
        with pytest.raises(sources.OutsideDataRoot):
            sources.locate(root, path)
