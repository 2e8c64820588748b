"""Appends that are interrupted, overtaken or withdrawn, and what is swept meanwhile."""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import select

from service.errors import Withdrawn
from service.ledger.batches import leases
from service.ledger.database.states import AppendStatus, DatasetStatus
from service.ledger.database.tables import AuditEvent
from service.ledger.destruction import stored_files, withdrawals
from service.ledger.registry import appends, datasets, records, segments
from tests.workers.jobs.test_append import MORE, add_rows, aside, dataset
from tests.workers.shop import ROWS, Shop
from workers.jobs import append, erase, ingest, purge, slices


@pytest.fixture
def visits(shop: Shop) -> Shop:
    """A shop whose dataset ``visits`` has 24 rows, with ids and subjects."""
    shop.add("visits", shop.write("visits.csv"))
    return shop


def test_attempt_that_was_killed_between_two_slices_is_made_anew(
    visits: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "SLICE", 5)

    class Killed(Exception):
        pass

    def kill(point: str) -> None:
        raise Killed

    monkeypatch.setattr(slices, "reach", kill)
    with pytest.raises(Killed):
        add_rows(visits, visits.write("more.csv", rows=MORE))
    assert aside(visits) == 5
    assert dataset(visits).rows == ROWS
    assert visits.records("visits") == [f"visit-{row}" for row in range(ROWS)]
    monkeypatch.setattr(slices, "reach", lambda _point: None)
    assert append.run_due(visits.runtime)
    assert visits.records("visits") == [f"visit-{row}" for row in range(ROWS + 12)]
    assert aside(visits) == 0
    assert len(visits.runtime.store.rows.keys()) == 2


def test_withdrawn_dataset_loses_all_its_arrays_and_what_was_underway(
    visits: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_rows(visits, visits.write("more.csv", rows=MORE))

    def withdraw(point: str) -> None:
        if point != "append.staged":
            return
        with visits.runtime.session() as session:
            withdrawals.withdraw_dataset(
                session,
                datasets.get(session, "visits"),
                actor="key:k",
                now=visits.runtime.now(),
            )

    monkeypatch.setattr(append, "reach", withdraw)
    made = add_rows(visits, visits.write("most.csv", rows=range(100, 110)))
    assert made.status == AppendStatus.CANCELLED
    keys = [one.key for one in stored_keys(visits)]
    erase.run_due(visits.runtime)
    assert dataset(visits).status == DatasetStatus.PURGED
    assert visits.runtime.store.rows.keys() == []
    assert aside(visits) == 0
    with visits.runtime.session() as session:
        line = session.scalars(select(AuditEvent).filter_by(action="dataset:purged")).one()
    destroyed = line.data["receipt"]["destroyed"]
    assert [one["digest"] for one in destroyed] == keys


def test_nothing_is_appended_to_a_dataset_that_was_withdrawn_since_it_was_read(
    visits: Shop,
) -> None:
    before = dataset(visits)
    with visits.runtime.session() as session:
        withdrawals.withdraw_dataset(
            session, datasets.get(session, "visits"), actor="key:k", now=visits.runtime.now()
        )
    with visits.runtime.session() as session, pytest.raises(Withdrawn):
        appends.create(
            session, before, source={"path": "more.csv"}, actor="key:k", now=visits.runtime.now()
        )


def stored_keys(shop: Shop) -> list[segments.Segment]:
    with shop.runtime.session() as session:
        return segments.of(session, datasets.get(session, "visits"))


def test_sweep_keeps_the_arrays_of_appends(visits: Shop) -> None:
    add_rows(visits, visits.write("more.csv", rows=MORE))
    with visits.runtime.session() as session:
        used = stored_files.files_in_use(session)["arrays"]
    assert used == {one.key for one in stored_keys(visits)}


@pytest.mark.parametrize(("job", "last"), [(ingest, "complete"), (append, "join")])
def test_worker_that_lost_its_lease_leaves_the_array_to_the_next_one(
    visits: Shop, monkeypatch: pytest.MonkeyPatch, job: ModuleType, last: str
) -> None:
    """The source gives both of them the same array; only the first finds it in vain."""
    real = getattr(slices, last)

    def late(*_given: Any, held: leases.Held, **_more: Any) -> bool:
        monkeypatch.setattr(slices, last, real)
        with visits.runtime.session() as session:
            leases.revoke(session, held.key, now=visits.runtime.now())
        assert job.run_due(visits.runtime)
        return False

    monkeypatch.setattr(slices, last, late)
    path = visits.write("more.csv", rows=MORE)
    if job is append:
        assert add_rows(visits, path).status == AppendStatus.COMPLETED
    else:
        assert visits.add("more", path).status == DatasetStatus.READY
    with visits.runtime.session() as session:
        used = stored_files.files_in_use(session)["arrays"]
    assert sorted(used) == visits.runtime.store.rows.keys()


@pytest.mark.parametrize("job", [ingest, append])
def test_sweep_keeps_the_array_of_which_the_records_take_longer_than_the_grace(
    visits: Shop, monkeypatch: pytest.MonkeyPatch, job: ModuleType
) -> None:
    """Nothing refers to it before the last of them is written."""
    swept: list[str] = []

    def sweep(point: str) -> None:
        if not point.endswith(".stored"):
            return
        for file in (visits.settings.store / "arrays").rglob("*"):
            os.utime(file, (0, 0))
        for home in (visits.settings.store / "arrays").iterdir():
            os.utime(home, (0, 0))
        purge.sweep(visits.runtime)
        swept.append(point)

    monkeypatch.setattr(job, "reach", sweep)
    path = visits.write("more.csv", rows=MORE)
    if job is append:
        assert add_rows(visits, path).status == AppendStatus.COMPLETED
    else:
        assert visits.add("more", path).status == DatasetStatus.READY
    assert swept
    with visits.runtime.session() as session:
        used = stored_files.files_in_use(session)["arrays"]
    assert sorted(used) == visits.runtime.store.rows.keys()
