"""Requests know by which rule they are due, how often that was extended, and what was warned of."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0043"
down_revision = "0042"


def upgrade() -> None:
    op.add_column("deletion_requests", sa.Column("regulation", sa.String(16)))
    op.add_column("deletion_requests", sa.Column("extensions", sa.Integer()))
    op.add_column("deletion_requests", sa.Column("extension_reason", sa.Text()))
    op.add_column("deletion_requests", sa.Column("warnings", sa.Integer()))


def downgrade() -> None:
    for name in ("warnings", "extension_reason", "extensions", "regulation"):
        op.drop_column("deletion_requests", name)
