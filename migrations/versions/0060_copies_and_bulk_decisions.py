"""Copies of versions in a model registry outside the service; decisions about many requests."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0060"
down_revision = "0059"


def upgrade() -> None:
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "registry_copies",
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.String(32)),
        sa.Column("is_live", sa.Boolean(), nullable=False),
        sa.Column("begun_at", moment, nullable=False),
        sa.Column("registered_at", moment),
        sa.Column("removed_at", moment),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("failing_since", moment),
        sa.Column("not_before", moment),
        sa.Column("error", sa.String(255)),
        sa.ForeignKeyConstraint(
            ["version_id"], ["versions.id"], name="fk_registry_copies_version_id_versions"
        ),
        sa.PrimaryKeyConstraint("version_id", name="pk_registry_copies"),
    )
    there = sa.text("removed_at IS NULL")
    op.create_index(
        "ix_registry_copies_there",
        "registry_copies",
        ["version_id"],
        sqlite_where=there,
        postgresql_where=there,
    )
    op.create_table(
        "bulk_decisions",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("filter", sa.JSON(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("reason_code", sa.String(32)),
        sa.Column("actor", sa.String(80), nullable=False),
        sa.Column("matching", sa.Integer(), nullable=False),
        sa.Column("place", sa.String(40), nullable=False),
        sa.Column("until", sa.String(40), nullable=False),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.Column("refused", sa.Integer(), nullable=False),
        sa.Column("refusals", sa.JSON(), nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("ended_at", moment),
        sa.PrimaryKeyConstraint("id", name="pk_bulk_decisions"),
    )


def downgrade() -> None:
    op.drop_table("bulk_decisions")
    op.drop_table("registry_copies")
