"""Models know which names of their tensors are one tensor.

NULL for the models of before: a worker looks at each of them once more.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("models", sa.Column("tied", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("models", "tied")
