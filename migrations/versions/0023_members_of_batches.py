"""Rows and erasures name their batch without a key of the database: it is looked up for each."""

from __future__ import annotations

from alembic import op

revision = "0023"
down_revision = "0022"

_TABLES = ("batch_records", "erasures")


def upgrade() -> None:
    for name in _TABLES:
        with op.batch_alter_table(name) as table:
            table.drop_constraint(f"fk_{name}_batch_id_batches", type_="foreignkey")


def downgrade() -> None:
    for name in _TABLES:
        with op.batch_alter_table(name) as table:
            table.create_foreign_key(f"fk_{name}_batch_id_batches", "batches", ["batch_id"], ["id"])
