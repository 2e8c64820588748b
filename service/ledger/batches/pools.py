"""Pools: scores of earlier batches with which a small one is judged.

A pool has the latest batches since the anchor, as many as are needed for its number of rows. Older
scores are not needed again unless production is moved back.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger.database.tables import Artifact, Batch, Version
from service.ledger.registry import lineage
from service.ledger.registry.policy import Policy

#: Least number of forgotten rows in a pool; a policy's gates may require more.
ROWS = 100
#: Largest number of earlier batches in a pool: the scores of each are a file to read.
BATCHES = 400


def rows_wanted(policy: Policy) -> int:
    """Return the number of forgotten rows below which a batch is pooled with earlier ones."""
    return max(ROWS, int(policy.gates.get("pool_below_rows", 0)))


def scores(session: Session, version: Version, *, rows: int) -> Sequence[Artifact]:
    """Return scores of the batches up to ``version``, newest first, until they hold ``rows`` rows.

    Batches that forgot a class are left out: their target differs from that of single records.
    """
    if rows <= 0 or not version.batches_since_anchor:
        return []
    kept = session.execute(
        select(Artifact, Batch.records)
        .join(Version, Version.id == Artifact.version_id)
        .join(Batch, Batch.id == Version.batch_id)
        .where(
            lineage.since_anchor(session, version, Version),
            Batch.kind == "records",
            Artifact.kind == "scores",
            Artifact.destroyed_at.is_(None),
        )
        .order_by(Version.number.desc(), Artifact.id.desc())
        # Each batch has at least one row.
        .limit(min(rows, BATCHES))
    )
    found: list[Artifact] = []
    collected = 0
    for artifact, count in kept:
        if collected >= rows:
            break
        found.append(artifact)
        collected += count
    return found
