"""Batches know whether their next method trains, and which methods were tried before."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    # The defaults are for the rows that are there; from then on the code gives every value.
    with op.batch_alter_table("batches") as batches:
        batches.add_column(
            sa.Column("trains", sa.Boolean(), nullable=False, server_default=sa.false())
        )
        batches.add_column(sa.Column("tried", sa.JSON(), nullable=False, server_default="[]"))
    with op.batch_alter_table("batches") as batches:
        batches.alter_column("trains", server_default=None)
        batches.alter_column("tried", server_default=None)


def downgrade() -> None:
    with op.batch_alter_table("batches") as batches:
        batches.drop_column("tried")
        batches.drop_column("trains")
