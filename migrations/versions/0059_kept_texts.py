"""Datasets may keep the texts of which their rows are made, in arrays of their own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0059"
down_revision = "0058"

_TABLES = ("datasets", "dataset_appends")


def upgrade() -> None:
    for table in _TABLES:
        op.add_column(table, sa.Column("text_key", sa.String(64), nullable=True))


def downgrade() -> None:
    for table in _TABLES:
        op.drop_column(table, "text_key")
