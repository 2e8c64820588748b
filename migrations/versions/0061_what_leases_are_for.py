"""Leases say since when they are held, what their holder computes, and how far that is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0061"
down_revision = "0060"

_TABLE = "leases"


def upgrade() -> None:
    op.add_column(_TABLE, sa.Column("taken_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column(_TABLE, sa.Column("doing", sa.String(24), nullable=True))
    op.add_column(_TABLE, sa.Column("progress", sa.Double(), nullable=True))


def downgrade() -> None:
    for column in ("progress", "doing", "taken_at"):
        op.drop_column(_TABLE, column)
