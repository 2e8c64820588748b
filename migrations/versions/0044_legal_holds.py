"""Legal holds on requests, and the code of the reason for which one was denied."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0044"
down_revision = "0043"


def upgrade() -> None:
    moment = sa.DateTime(timezone=True)
    op.add_column("deletion_requests", sa.Column("denial_code", sa.String(32)))
    op.add_column("deletion_requests", sa.Column("legal_hold_id", sa.String(40)))
    op.create_table(
        "legal_holds",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("request_id", sa.String(40), nullable=False),
        sa.Column("reason_code", sa.String(32), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("placed_by", sa.String(80), nullable=False),
        sa.Column("placed_at", moment, nullable=False),
        sa.Column("released_by", sa.String(80)),
        sa.Column("released_at", moment),
        sa.Column("release_reason", sa.Text()),
        sa.ForeignKeyConstraint(
            ["request_id"],
            ["deletion_requests.id"],
            name="fk_legal_holds_request_id_deletion_requests",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_legal_holds"),
    )
    op.create_index("ix_legal_holds_request_id", "legal_holds", ["request_id"])
    in_force = sa.text("released_at IS NULL")
    op.create_index(
        "uq_legal_holds_in_force",
        "legal_holds",
        ["request_id"],
        unique=True,
        sqlite_where=in_force,
        postgresql_where=in_force,
    )


def downgrade() -> None:
    op.drop_table("legal_holds")
    for name in ("legal_hold_id", "denial_code"):
        op.drop_column("deletion_requests", name)
