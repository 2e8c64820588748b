"""Workers keep counts with their heartbeat, and requests the trace that they belong to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0055"
down_revision = "0053"


def upgrade() -> None:
    op.add_column("workers", sa.Column("counts", sa.JSON(), nullable=True))
    op.create_table(
        "ended_workers",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ended_workers"),
    )
    op.add_column("deletion_requests", sa.Column("traceparent", sa.String(55), nullable=True))


def downgrade() -> None:
    op.drop_column("deletion_requests", "traceparent")
    op.drop_table("ended_workers")
    op.drop_column("workers", "counts")
