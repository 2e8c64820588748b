"""What the workers come without is not offered any more; what the first methods need."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"

#: As the release before knew it by name. A worker of this release announces it of itself.
NEEDS = {
    "iau": {"anchor": ["records"]},
    "amnesiac": {"update_log": ["class", "records"]},
}


def upgrade() -> None:
    op.add_column("capabilities", sa.Column("removed_at", sa.DateTime(timezone=True)))
    known = sa.table(
        "capabilities", sa.column("kind"), sa.column("name"), sa.column("details", sa.JSON())
    )
    connection = op.get_bind()
    methods = connection.execute(sa.select(known).where(known.c.kind == "method")).all()
    for kind, name, details in methods:
        connection.execute(
            sa.update(known)
            .where(known.c.kind == kind, known.c.name == name)
            .values(details={**details, "needs": NEEDS.get(name, {})})
        )


def downgrade() -> None:
    op.drop_column("capabilities", "removed_at")
