"""The records of an ingest come slice by slice: what may happen in between."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import select

from service.ledger.batches import leases
from service.ledger.database.states import DatasetStatus, RequestStatus
from service.ledger.database.tables import AuditEvent, DeletionRequest, Suppression
from service.ledger.destruction import withdrawals
from service.ledger.registry import datasets, records
from service.ledger.requests import previews
from service.ledger.requests.parts import DatasetNotReady
from service.ledger.selection.matching import Ask
from tests.workers.shop import ROWS, Shop
from workers.jobs import erase, ingest, slices
from workers.runtime import Runtime

#: Records in a slice here; the last of the shop's slices is not full.
SLICE = 5
SLICES = -(-ROWS // SLICE)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "SLICE", SLICE)


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Has something done, once, after the second slice."""

    def set_up(action: Callable[[], None]) -> None:
        reached = []

        def reach(point: str) -> None:
            reached.append(point)
            if reached.count("ingest.sliced") == 2:
                monkeypatch.setattr(slices, "reach", lambda _point: None)
                action()

        monkeypatch.setattr(slices, "reach", reach)

    return set_up


def names(rows: range = range(ROWS), *, without: int | None = None) -> list[str]:
    """Record ids of the shop's rows; ``without`` those of a person."""
    return [f"visit-{row}" for row in rows if row % 6 != without]


def status(shop: Shop, name: str) -> DatasetStatus:
    with shop.runtime.session() as session:
        return datasets.get(session, name).status


def actions(shop: Shop, name: str) -> list[str]:
    with shop.runtime.session() as session:
        wanted = select(AuditEvent.action).where(AuditEvent.subject == f"dataset:{name}")
        return list(session.scalars(wanted.order_by(AuditEvent.seq)))


def array_keys(shop: Shop, *names: str) -> list[str | None]:
    with shop.runtime.session() as session:
        return sorted(str(datasets.get(session, name).array_key) for name in names)


def test_another_writer_commits_between_any_two_slices(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    def write(point: str) -> None:
        assert point == "ingest.sliced"
        with shop.runtime.session() as session:
            source = {"path": "none.csv"}
            name = f"other-{len(written)}"
            datasets.create(session, name, source=source, actor="key:k", now=shop.runtime.now())
            written.append(records.written(session, datasets.get(session, "visits").id))

    monkeypatch.setattr(slices, "reach", write)
    made = shop.add("visits", shop.write("visits.csv"))
    assert written == [5, 10, 15, 20, 24]
    assert (made.status, made.rows) == (DatasetStatus.READY, ROWS)
    assert shop.records("visits") == names()


def test_records_of_a_dataset_that_is_not_ready_are_shown_to_nobody(
    shop: Shop, between: Callable
) -> None:
    path = shop.write("visits.csv")
    shop.add("visits", path)

    def look() -> None:
        with shop.runtime.session() as session:
            described = datasets.describe(session, datasets.get(session, "again"))
        assert (described["rows"], sum(described["splits"].values())) == (None, 0)
        for ask in ({"subject_id": "Person-2"}, {"record_ids": ("visit-1",)}, {"label": 1}):
            with pytest.raises(DatasetNotReady):
                shop.ask("again", **ask)
        with shop.runtime.session() as session:
            ask = Ask(None, "subject", subject_id="Person-1")
            found = previews.preview(
                session,
                ask,
                principal="key_test",
                digester=shop.runtime.digester,
                now=shop.runtime.now(),
            )
        assert [part["dataset"] for part in found["datasets"]] == ["visits"]

    between(look)
    assert shop.add("again", path).status == DatasetStatus.READY


def test_a_worker_killed_between_two_slices_leaves_nothing_that_the_next_one_stumbles_over(
    shop: Shop, faults: Path
) -> None:
    path = shop.write("visits.csv")
    with shop.runtime.session() as session:
        source = {"path": path}
        made = datasets.create(session, "visits", source=source, actor="k", now=shop.runtime.now())
    program = (
        "import sys; from pathlib import Path; from service.ledger.registry import records; "
        "from service.settings import Settings; from workers.jobs import ingest; "
        "from workers.runtime import Runtime; records.SLICE = 5; "
        "state, database = sys.argv[1:]; "
        "ingest.run_due(Runtime.make(Settings(_env_file=None, mode='development', "
        "state_dir=Path(state), database_url=database, lease_seconds=0.001)))"
    )
    (faults / "ingest.sliced").write_text("kill")
    arguments = [str(shop.settings.state_dir), shop.settings.database]
    killed = subprocess.run([sys.executable, "-c", program, *arguments], check=False)
    assert killed.returncode == -9
    with shop.runtime.session() as session:
        assert records.written(session, made.id) == SLICE
    assert status(shop, "visits") == DatasetStatus.INGESTING
    # A source that has changed since: nothing of the first attempt may be left.
    shop.write("visits.csv", rows=range(2, ROWS))
    assert ingest.run_due(shop.runtime)
    assert shop.records("visits") == names(range(2, ROWS))
    assert actions(shop, "visits") == ["dataset:created", "dataset:ingested"]


def test_a_dataset_withdrawn_between_two_slices_is_gone_with_its_records(
    shop: Shop, between: Callable
) -> None:
    def withdraw() -> None:
        with shop.runtime.session() as session:
            data = datasets.get(session, "visits")
            withdrawals.withdraw_dataset(session, data, actor="key:k", now=shop.runtime.now())

    between(withdraw)
    made = shop.add("visits", shop.write("visits.csv"))
    assert made.status == DatasetStatus.WITHDRAWN
    assert shop.runtime.store.rows.keys() == []
    assert shop.records("visits") == names(range(2 * SLICE))
    assert erase.run_due(shop.runtime)
    assert status(shop, "visits") == DatasetStatus.PURGED
    assert shop.records("visits") == []
    assert actions(shop, "visits") == [
        "dataset:created",
        "dataset:withdrawn",
        "dataset:purged",
    ]


@pytest.mark.parametrize("previous_key", [False, True])
def test_whoever_asks_to_be_forgotten_between_two_slices_is_not_in_the_dataset(
    shop: Shop, between: Callable, previous_key: bool
) -> None:
    path = shop.write("visits.csv")
    shop.add("visits", path)
    asked: list[str] = []
    old = shop.runtime

    def ask() -> None:
        new, shop.runtime = shop.runtime, old
        asked.append(shop.ask(None, subject_id=" Person-2"))
        shop.runtime = new

    if previous_key:
        # The worker has the new key already, the process that takes requests has not.
        shop.with_key("another-subject-key-" * 3, shop.settings.subject_key.get_secret_value())
    between(ask)
    again = shop.add("again", path)
    assert (again.status, again.rows) == (DatasetStatus.READY, ROWS - 4)
    assert shop.records("again") == names(without=2)
    assert shop.suppressed("again") == 4
    assert shop.runtime.store.rows.keys() == array_keys(shop, "visits", "again")
    with shop.runtime.session() as session:
        request = session.get_one(DeletionRequest, asked[0])
        assert (request.status, request.matched) == (RequestStatus.ACCEPTED, 4)
        assert session.scalars(
            select(Suppression.kind).order_by(Suppression.kind.desc())
        ).all() == ["subject", "folded"]


def test_a_source_refused_between_two_slices_leaves_no_record(shop: Shop, faults: Path) -> None:
    (faults / "ingest.sliced").write_text("full_disk")
    path = shop.write("visits.csv")
    made = shop.add("visits", path)
    assert made.status == DatasetStatus.FAILED
    assert "No space left" in str(made.error)
    assert shop.records("visits") == shop.runtime.store.rows.keys() == []
    assert shop.add("visits", path).status == DatasetStatus.READY
    assert shop.records("visits") == names()


def test_an_ingest_stopped_between_two_slices_is_done_by_the_next_worker(
    shop: Shop, between: Callable
) -> None:
    shop.settings = shop.settings.model_copy(update={"grace_seconds": 0})
    shop.runtime = Runtime.make(shop.settings, engine=shop.runtime.engine)
    between(shop.runtime.stop.set)
    made = shop.add("visits", shop.write("visits.csv"))
    assert made.status == DatasetStatus.INGESTING
    assert shop.records("visits") == names(range(2 * SLICE))
    assert ingest.run_due(Runtime.make(shop.settings, engine=shop.runtime.engine))
    assert status(shop, "visits") == DatasetStatus.READY
    assert shop.records("visits") == names()


def test_a_worker_overtaken_between_two_slices_writes_nothing_more(
    shop: Shop, between: Callable
) -> None:
    def overtake() -> None:
        with shop.runtime.session() as session:
            data = datasets.get(session, "visits")
            leases.revoke(session, leases.of_ingest(data.id), now=shop.runtime.now())
        assert ingest.run_due(Runtime.make(shop.settings, engine=shop.runtime.engine))

    between(overtake)
    made = shop.add("visits", shop.write("visits.csv"))
    assert made.status == DatasetStatus.READY
    assert shop.records("visits") == names()
    assert shop.runtime.store.rows.keys() == array_keys(shop, "visits")
    assert actions(shop, "visits") == ["dataset:created", "dataset:ingested"]


def test_slices_follow_what_one_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "SLICE", 10_000)
    pace = slices.Pace()
    sizes = [pace.rows]
    for _ in range(6):
        pace.took(slices.SLICE_SECONDS / 100)
        sizes.append(pace.rows)
    assert sizes[1:] == [min(2 * size, records.SLICE) for size in sizes[:-1]]
    assert sizes[-1] == records.SLICE
    pace.took(4 * slices.SLICE_SECONDS)
    assert pace.rows == records.SLICE // 4
    pace.took(1000 * slices.SLICE_SECONDS)
    assert pace.rows == slices.FIRST_ROWS
