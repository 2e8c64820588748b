"""The check of an encoder is repeated if the machine may be why it failed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0058"
down_revision = "0055"


def upgrade() -> None:
    op.add_column(
        "encoders", sa.Column("attempts", sa.Integer(), nullable=False, server_default="0")
    )


def downgrade() -> None:
    op.drop_column("encoders", "attempts")
