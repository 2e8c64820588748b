"""Suppressions that come while a file is read or rows are overwritten: none is missed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.errors import Conflict
from service.ledger.database.states import DatasetStatus, RequestStatus
from service.ledger.database.tables import Dataset, DeletionRequest, Suppression
from service.ledger.registry import datasets, records
from service.ledger.requests import (
    intake,
    page,
    suppressions,
)
from service.ledger.requests.parts import DatasetNotReady
from service.ledger.requests.suppressions import Kind
from service.ledger.selection.matching import Ask
from tests.workers.shop import Shop
from workers.jobs import erase, ingest, suppression


def test_whoever_is_forgotten_while_the_file_is_read_is_not_in_it(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shop.write("visits.csv")
    shop.add("visits", path)

    def forget_now(point: str) -> None:
        """In the moment after the rows were stored and before the dataset is ready."""
        if point == "ingest.stored":
            monkeypatch.undo()
            shop.ask(None, subject_id="Person-2")

    monkeypatch.setattr(ingest, "reach", forget_now)
    again = shop.add("visits-2", path)
    assert shop.suppressed("visits-2") == 4
    assert shop.runtime.store.rows.keys() == sorted(
        str(one.array_key) for one in (again, _found(shop, "visits"))
    )


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_row_that_is_overwritten_while_suppressions_are_read_is_not_missed(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.ask_for_a_visit()

    def erase_after(reading: Callable[..., Any]) -> Callable[..., Any]:
        def read(session: Session) -> Any:
            found = reading(session)
            while erase.run_due(shop.runtime):
                pass
            return found

        return read

    for name in ("in_force", "about_to_go"):
        monkeypatch.setattr(suppressions, name, erase_after(getattr(suppressions, name)))
    row_filter = ingest.filter_of(shop.runtime, {})
    with shop.runtime.session() as session:
        kept = session.scalars(select(Suppression.digest)).one()
    assert kept in row_filter.suppressed.digests[Kind.ROW]


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_whoever_is_suppressed_under_a_lower_number_and_committed_later_is_not_missed(
    shop: Shop,
) -> None:
    path = shop.write("visits.csv")
    shop.add("visits", path)
    filters: list[suppression.SuppressionFilter] = []
    reader = threading.Thread(target=lambda: filters.append(ingest.filter_of(shop.runtime, {})))
    ask = Ask("visits", "subject", subject_id="Person-2")
    now, digester = shop.runtime.now(), shop.runtime.digester
    with shop.runtime.session() as session:
        intake.record(session, ask, principal="key_test", digester=digester, now=now)
        shop.ask("visits", subject_id="Person-3")
        reader.start()
        reader.join(timeout=2)
    reader.join(timeout=60)
    with shop.runtime.session() as session:
        late = suppressions.in_force(session, after=filters[0].suppressed.newest)
    known = filters[0].suppressed.digests[Kind.SUBJECT] | late.digests[Kind.SUBJECT]
    assert known == {digester.subject("Person-2"), digester.subject("Person-3")}


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_request_does_not_wait_for_the_rows_of_an_ingest_to_be_written(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shop.write("visits.csv")
    shop.add("visits", path)
    write = records.write

    def forget_meanwhile(*found: Any, **options: Any) -> None:
        """Somebody else asks, for that person and by the name of the new dataset too."""
        write(*found, **options)
        monkeypatch.undo()
        other = threading.Thread(target=_ask_both, args=(shop,))
        other.start()
        other.join(timeout=60)
        assert not other.is_alive()

    monkeypatch.setattr(records, "write", forget_meanwhile)
    again = shop.add("visits-2", path)
    assert (again.status, shop.suppressed("visits-2")) == (DatasetStatus.READY, 4)


def _ask_both(shop: Shop) -> None:
    asks = [
        Ask(None, "subject", subject_id="Person-2"),
        Ask("visits-2", "subject", subject_id="Person-2"),
    ]
    submissions = [page.Submission(ask, "key_test") for ask in asks]
    with shop.runtime.session() as session:
        now, digester = shop.runtime.now(), shop.runtime.digester
        done, refused = intake.record_many(session, submissions, digester=digester, now=now)
    assert isinstance(done, page.Receipt)
    assert isinstance(refused, DatasetNotReady)


def _found(shop: Shop, name: str) -> Dataset:
    with shop.runtime.session() as session:
        return datasets.get(session, name)


def test_an_interrupted_overwriting_suppresses_each_row_once(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, request = shop.ask_for_a_visit()

    def die(point: str) -> None:
        if point == "erase.overwritten":
            monkeypatch.undo()
            raise KeyboardInterrupt

    monkeypatch.setattr(erase, "reach", die)
    with pytest.raises(KeyboardInterrupt):
        erase.run_due(shop.runtime)
    erase.run_due(shop.runtime)
    with shop.runtime.session() as session:
        assert session.get_one(DeletionRequest, request).status == RequestStatus.COMPLETED
        assert [one.row for one in session.scalars(select(Suppression))] == [5]
    assert shop.left_out("visits-2", path) == 1


def test_a_hold_is_refused_while_rows_are_overwritten(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, request = shop.ask_for_a_visit()
    refusals = list[str]()

    def hold(point: str) -> None:
        if point == "erase.overwritten":
            with pytest.raises(Conflict) as refused:
                shop.hold(request)
            refusals.append(str(refused.value))

    monkeypatch.setattr(erase, "reach", hold)
    erase.run_due(shop.runtime)
    assert len(refusals) == 1
    assert "overwriting rows" in refusals[0]
