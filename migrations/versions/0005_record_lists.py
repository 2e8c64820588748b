"""Record lists: what a version that was imported says it was trained on."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "record_lists",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("records", sa.Integer(), nullable=False),
        sa.Column("created_by", sa.String(80), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name=op.f("fk_record_lists_dataset_id_datasets")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_record_lists")),
        sa.UniqueConstraint("dataset_id", "digest", name=op.f("uq_record_lists_dataset_id_digest")),
    )
    op.create_table(
        "record_list_rows",
        sa.Column("list_id", sa.String(40), nullable=False),
        sa.Column("row", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["list_id"], ["record_lists.id"], name=op.f("fk_record_list_rows_list_id_record_lists")
        ),
        sa.PrimaryKeyConstraint("list_id", "row", name=op.f("pk_record_list_rows")),
    )
    op.add_column("versions", sa.Column("record_list_id", sa.String(40), nullable=True))


def downgrade() -> None:
    op.drop_column("versions", "record_list_id")
    op.drop_table("record_list_rows")
    op.drop_table("record_lists")
