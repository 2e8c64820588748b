"""Nobody looks requests up by who made them, and each change of a request wrote the index again."""

from __future__ import annotations

from alembic import op

revision = "0031"
down_revision = "0030"


def upgrade() -> None:
    op.drop_index("ix_deletion_requests_principal", table_name="deletion_requests")


def downgrade() -> None:
    op.create_index("ix_deletion_requests_principal", "deletion_requests", ["principal"])
