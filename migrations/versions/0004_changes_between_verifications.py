"""How many rows left each measured set since its figures were last shown.

Verifications stored before have no such count: their figures over whole sets are no longer shown to
keys without ``audit:read``, because the difference of two neighbouring ones may be a single row.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    with op.batch_alter_table("verifications") as table:
        table.add_column(sa.Column("set_changes", sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("verifications") as table:
        table.drop_column("set_changes")
