"""The visits of a shop after a deletion: which of them are left, and their removal."""

from __future__ import annotations

from service.ledger.database.states import DatasetStatus
from service.ledger.destruction import withdrawals
from service.ledger.registry import datasets
from tests.workers.shop import ROWS, Shop
from workers.jobs import erase


def visits_but(*left_out: int) -> list[str]:
    return [f"visit-{row}" for row in range(ROWS) if row not in left_out]


def remove_dataset(shop: Shop, dataset: str) -> None:
    with shop.runtime.session() as session:
        withdrawals.withdraw_dataset(
            session,
            datasets.get(session, dataset),
            models="withdraw",
            purge="now",
            actor="key:k",
            now=shop.runtime.now(),
        )
    erase.run_due(shop.runtime)
    with shop.runtime.session() as session:
        assert datasets.get(session, dataset).status == DatasetStatus.PURGED
