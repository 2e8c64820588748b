"""Versions, models and datasets can be withdrawn; the alias can point at nothing."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

_MOMENTS = {
    "datasets": ("withdrawn_at", "purged_at"),
    "models": ("withdrawn_at", "purged_at"),
    "versions": ("withdrawn_at", "purge_at"),
}


def upgrade() -> None:
    for table, columns in _MOMENTS.items():
        for column in columns:
            op.add_column(table, sa.Column(column, sa.DateTime(timezone=True), nullable=True))
    with op.batch_alter_table("alias_moves") as moves:
        moves.alter_column("version_id", existing_type=sa.Integer(), nullable=True)


def downgrade() -> None:
    """What was withdrawn becomes the nearest thing that was known before: never served again."""
    op.execute(
        "UPDATE versions SET status = 'retired', retired_at = coalesce(retired_at, withdrawn_at) "
        "WHERE status = 'withdrawn'"
    )
    op.execute(
        "UPDATE datasets SET status = 'failed', error = 'it was withdrawn' "
        "WHERE status IN ('withdrawn', 'purged')"
    )
    op.execute("DELETE FROM alias_moves WHERE version_id IS NULL")
    with op.batch_alter_table("alias_moves") as moves:
        moves.alter_column("version_id", existing_type=sa.Integer(), nullable=False)
    for table, columns in _MOMENTS.items():
        for column in reversed(columns):
            op.drop_column(table, column)
