"""Indexes on the versions and batches with which something is still to be done: for each poll."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"

_CANDIDATE = sa.text("status = 'candidate'")
_GIVEN_UP = sa.text("status IN ('withdrawn', 'rejected')")
_UNDER_WAY = sa.text("status IN ('running', 'held')")


def upgrade() -> None:
    _create("ix_versions_candidates", "versions", _CANDIDATE)
    _create("ix_versions_given_up", "versions", _GIVEN_UP)
    _create("ix_batches_under_way", "batches", _UNDER_WAY)


def downgrade() -> None:
    op.drop_index("ix_batches_under_way", table_name="batches")
    op.drop_index("ix_versions_given_up", table_name="versions")
    op.drop_index("ix_versions_candidates", table_name="versions")


def _create(name: str, table: str, where: sa.TextClause) -> None:
    op.create_index(name, table, ["model_id"], sqlite_where=where, postgresql_where=where)
