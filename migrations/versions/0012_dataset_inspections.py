"""Dry runs of an ingest."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.create_table(
        "dataset_inspections",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("status", sa.String(length=24), nullable=False),
        sa.Column("source", sa.JSON(), nullable=False),
        sa.Column("found", sa.JSON(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dataset_inspections")),
    )
    for column in ("created_at", "status"):
        op.create_index(
            op.f(f"ix_dataset_inspections_{column}"), "dataset_inspections", [column], unique=False
        )


def downgrade() -> None:
    op.drop_table("dataset_inspections")
