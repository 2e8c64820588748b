"""Replace an anchor's damaged cache while its rows can still be read."""

from __future__ import annotations

from service.ledger.batches import leases
from service.ledger.database.tables import Batch, Version
from service.ledger.registry import internal_state
from workers.jobs import purge
from workers.runtime import Runtime


def destroy_damaged(runtime: Runtime, held: leases.Held, batch_id: str) -> None:
    """Destroy the cache of the anchor that a batch starts from, so that it is prepared again."""
    with runtime.session() as session:
        base = session.get_one(Version, session.get_one(Batch, batch_id).base_version_id)
        anchor_id = base.anchor_id
        assert anchor_id is not None
        cache = internal_state.newest(session, anchor_id, "caches")
    if cache is not None:
        purge.destroy_artifacts(runtime, anchor_id, [cache.id], held)
