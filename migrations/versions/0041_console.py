"""Sign-ins to the console, and indexes for its list of requests by due date and reference."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0041"
down_revision = "0039"


def upgrade() -> None:
    op.create_table(
        "console_sessions",
        sa.Column("secret_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("key_id", sa.String(40), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["key_id"], ["api_keys.id"], name="fk_console_sessions_key_id_api_keys"
        ),
        sa.PrimaryKeyConstraint("secret_hash", name="pk_console_sessions"),
    )
    op.create_index("ix_console_sessions_key_id", "console_sessions", ["key_id"])
    op.create_index("ix_console_sessions_expires_at", "console_sessions", ["expires_at"])
    op.create_index(
        "ix_deletion_requests_due",
        "deletion_requests",
        ["due_at", "id"],
        sqlite_where=sa.text("is_open = 1"),
        postgresql_where=sa.text("is_open"),
    )
    op.create_index(
        "ix_deletion_requests_client_reference",
        "deletion_requests",
        ["client_reference"],
        sqlite_where=sa.text("client_reference IS NOT NULL"),
        postgresql_where=sa.text("client_reference IS NOT NULL"),
        postgresql_ops={"client_reference": "text_pattern_ops"},
    )


def downgrade() -> None:
    op.drop_index("ix_deletion_requests_client_reference", "deletion_requests")
    op.drop_index("ix_deletion_requests_due", "deletion_requests")
    op.drop_table("console_sessions")
