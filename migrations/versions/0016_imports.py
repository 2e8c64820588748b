"""Imports wait to be measured; those of before are decided on."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.create_table(
        "imports",
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("promote", sa.Boolean(), nullable=True),
        sa.Column("progress", sa.Double(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["version_id"], ["versions.id"], name=op.f("fk_imports_version_id_versions")
        ),
        sa.PrimaryKeyConstraint("version_id", name=op.f("pk_imports")),
    )
    op.create_index(op.f("ix_imports_finished_at"), "imports", ["finished_at"], unique=False)


def downgrade() -> None:
    op.drop_table("imports")
