"""Which earlier batches' scores a small batch is judged with."""

from __future__ import annotations

from sqlalchemy.orm import Session

from service.ledger.batches import pools
from tests import factories


def test_scores_go_back_batch_by_batch_until_they_hold_as_many_rows(session: Session) -> None:
    data = factories.dataset(session, rows=12)
    owner = factories.model(session, data)
    latest = factories.version(session, owner)
    kept = []
    for rows in ([0, 1, 2], [3], [4, 5]):
        latest = factories.unlearned(
            session, owner, latest, [factories.request(session, data, rows=rows)]
        )
        kept.insert(0, factories.artifact(session, latest, kind="scores"))
    taken = {rows: pools.scores(session, latest, rows=rows) for rows in range(8)}
    assert taken == {rows: kept[: [0, 1, 1, 2, 3, 3, 3, 3][rows]] for rows in taken}
