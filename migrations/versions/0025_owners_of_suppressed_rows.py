"""Rows of removed datasets can be readmitted: whose they were is kept beside their suppression.

Of datasets removed before nobody can tell any more; their rows stay out.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"


def upgrade() -> None:
    op.add_column("suppressions", sa.Column("subject_digest", sa.String(length=64), nullable=True))
    op.add_column("suppressions", sa.Column("record_digest", sa.String(length=64), nullable=True))


def downgrade() -> None:
    op.drop_column("suppressions", "record_digest")
    op.drop_column("suppressions", "subject_digest")
