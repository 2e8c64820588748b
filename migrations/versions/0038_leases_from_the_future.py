"""A lease knows when it was renewed, to find those of a clock that was set back; held ones too."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0038"
down_revision = "0037"


def upgrade() -> None:
    op.add_column("leases", sa.Column("renewed_at", sa.DateTime(timezone=True), nullable=True))
    held = sa.text("owner IS NOT NULL")
    op.create_index("ix_leases_held", "leases", ["key"], sqlite_where=held, postgresql_where=held)


def downgrade() -> None:
    op.drop_index("ix_leases_held", table_name="leases")
    op.drop_column("leases", "renewed_at")
