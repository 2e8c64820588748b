"""Training runs name the state that they kept after their last epoch."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.add_column("training_runs", sa.Column("state_digest", sa.String(length=64), nullable=True))


def downgrade() -> None:
    op.drop_column("training_runs", "state_digest")
