"""Raw rows that a worker reads and overwrites while others write to the same dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from service.ledger.database import locks
from service.ledger.database.locks import Hold
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import Dataset, DeletionRequest, Record, Suppression
from service.ledger.obligations import without_models
from tests.workers.shop import Shop
from workers.jobs import erase

#: More than any of these writes takes; who waits longer waits for the reader.
PATIENCE_MS = 2_000


def _meanwhile(shop: Shop, monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> list[str]:
    """Have ``act`` happen once the store is asked for the content of rows; the arrays asked for."""
    rows, asked = shop.runtime.store.rows, list[str]()
    digests = rows.digests

    def slowly(key: str, wanted: Sequence[int]) -> Any:
        asked.append(key)
        if len(asked) == 1:
            act()
        return digests(key, wanted)

    monkeypatch.setattr(rows, "digests", slowly)
    return asked


def _claim_like(shop: Shop) -> None:
    """Write what a claim of the dataset locks, without patience."""
    with shop.runtime.session() as session:
        if session.get_bind().dialect.name == "postgresql":
            session.execute(text(f"SET LOCAL lock_timeout = {PATIENCE_MS}"))
        first = session.scalars(select(Dataset.id).order_by(Dataset.id).limit(1)).one()
        locks.dataset(session, first, Hold.REVISION)


def _exclude(shop: Shop) -> None:
    with shop.runtime.session() as session:
        [dataset] = session.scalars(select(Dataset))
        without_models.exclude(session, dataset.id, now=shop.runtime.now(), actor="worker")


def _states(session: Session) -> tuple[list[int], list[int]]:
    """Rows that are erased, and rows that are suppressed."""
    erased = select(Record.row).where(Record.erased_at.is_not(None)).order_by(Record.row)
    kept = select(Suppression.row).where(Suppression.kind == "row").order_by(Suppression.row)
    return list(session.scalars(erased)), list(session.scalars(kept))


def test_nobody_waits_while_rows_to_be_erased_are_read(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.add("visits", shop.write("visits.csv"))
    request = shop.ask("visits", record_ids=("visit-5",))
    asked = _meanwhile(shop, monkeypatch, lambda: _claim_like(shop))
    assert erase.run_due(shop.runtime)
    assert len(asked) == 1
    with shop.runtime.session() as session:
        assert session.get_one(DeletionRequest, request).status == RequestStatus.COMPLETED
        assert _states(session) == ([5], [5])


def test_nobody_waits_while_an_ingest_reads_rows_that_are_about_to_go(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = shop.ask_for_a_visit()
    asked = _meanwhile(shop, monkeypatch, lambda: _claim_like(shop))
    assert shop.left_out("visits-2", path) == 1
    assert len(asked) == 1


def test_rows_erased_while_an_ingest_reads_what_is_about_to_go_stay_out(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = shop.ask_for_a_visit()
    _meanwhile(shop, monkeypatch, lambda: [*iter(lambda: erase.run_due(shop.runtime), False)])
    assert shop.left_out("visits-2", path) == 1
    with shop.runtime.session() as session:
        assert _states(session) == ([5], [5])


def test_rows_that_are_held_while_they_are_read_stand(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.add("visits", shop.write("visits.csv"))
    request = shop.ask("visits", record_ids=("visit-5",))
    asked = _meanwhile(shop, monkeypatch, lambda: shop.hold(request))
    assert not erase.run_due(shop.runtime)
    assert len(asked) == 1
    with shop.runtime.session() as session:
        assert session.get_one(DeletionRequest, request).legal_hold_id is not None
        assert _states(session) == ([], [])


def test_rows_that_can_be_erased_only_since_they_were_read_come_next(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = shop.ask_for_a_visit()

    def ask() -> None:
        shop.ask("visits", record_ids=("visit-7",))
        _exclude(shop)

    _meanwhile(shop, monkeypatch, ask)
    for rows in ([5], [5, 7]):
        assert erase.run_due(shop.runtime)
        with shop.runtime.session() as session:
            assert _states(session) == (rows, rows)
    assert shop.left_out("visits-2", path) == 2
