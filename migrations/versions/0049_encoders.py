"""Encoders that were trained elsewhere."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0049"
down_revision = "0048"


def upgrade() -> None:
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "encoders",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("status", sa.String(24), nullable=False),
        sa.Column("source", sa.JSON(), nullable=False),
        sa.Column("statement", sa.Text(), nullable=False),
        sa.Column("error", sa.Text()),
        sa.Column("digest", sa.String(64)),
        sa.Column("weights_digest", sa.String(64)),
        sa.Column("tokenizer_digest", sa.String(64)),
        sa.Column("facts", sa.JSON()),
        sa.Column("created_by", sa.String(80), nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("ready_at", moment),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_encoders")),
    )
    op.create_index(op.f("ix_encoders_digest"), "encoders", ["digest"])
    op.create_index(op.f("ix_encoders_status"), "encoders", ["status"])


def downgrade() -> None:
    op.drop_table("encoders")
