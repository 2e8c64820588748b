"""A full proof of the ledger, how far it is and when the last one began."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"


def upgrade() -> None:
    op.add_column("reconciliation", sa.Column("full_at", sa.DateTime(timezone=True)))
    op.add_column("reconciliation", sa.Column("full_version", sa.Integer()))
    op.add_column("reconciliation", sa.Column("full_request", sa.String(40)))


def downgrade() -> None:
    for name in ("full_request", "full_version", "full_at"):
        op.drop_column("reconciliation", name)
