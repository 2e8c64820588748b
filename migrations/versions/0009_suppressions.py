"""Whoever was forgotten stays out of later ingests.

Subjects forgotten before are suppressed once they are asked for again: their digests were those of
one dataset. Rows overwritten before cannot be told any more.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_table(
        "suppressions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("request_id", sa.String(length=40), nullable=True),
        sa.Column("dataset_id", sa.Integer(), nullable=True),
        sa.Column("row", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lifted_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name=op.f("fk_suppressions_dataset_id_datasets")
        ),
        sa.ForeignKeyConstraint(
            ["request_id"],
            ["deletion_requests.id"],
            name=op.f("fk_suppressions_request_id_deletion_requests"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_suppressions")),
    )
    op.create_index(op.f("ix_suppressions_digest"), "suppressions", ["digest"], unique=False)
    op.create_index(
        "ix_suppressions_dataset_id_row", "suppressions", ["dataset_id", "row"], unique=False
    )
    op.create_index(
        op.f("ix_suppressions_request_id"), "suppressions", ["request_id"], unique=False
    )


def downgrade() -> None:
    op.drop_table("suppressions")
