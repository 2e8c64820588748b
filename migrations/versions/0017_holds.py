"""Batches can be held: when that ends by itself."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.add_column("batches", sa.Column("held_until", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    # An earlier release knows no held batch: its erasures wait for the next one again.
    op.execute(
        "UPDATE erasures SET status = 'pending', batch_id = NULL "
        "WHERE status = 'claimed' AND batch_id IN (SELECT id FROM batches WHERE status = 'held')"
    )
    op.execute(
        "UPDATE versions SET status = 'rejected' WHERE status = 'candidate' AND id IN "
        "(SELECT version_id FROM batches WHERE status = 'held')"
    )
    op.execute("UPDATE batches SET status = 'failed', version_id = NULL WHERE status = 'held'")
    op.drop_column("batches", "held_until")
