"""Training runs keep their results by epoch, and whether these may be shown."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0045"
down_revision = "0044"


def upgrade() -> None:
    op.add_column("training_runs", sa.Column("curve", sa.JSON(), nullable=True))
    op.add_column("training_runs", sa.Column("set_changes", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("training_runs", "set_changes")
    op.drop_column("training_runs", "curve")
