"""Datasets grow: appends, their records under way, and how many rows a version knows."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0039"
down_revision = "0038"

_WAITING = "status = 'waiting'"
_BEFORE = ["dataset_id", "name", "list_id", "below", "revision"]
_SINCE = ["dataset_id", "name", "list_id", "data_rows", "below", "revision"]


def upgrade() -> None:
    op.create_table(
        "dataset_appends",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(24), nullable=False),
        sa.Column("source", sa.JSON(), nullable=False),
        sa.Column("existing", sa.String(8), nullable=False),
        sa.Column("progress", sa.Double(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("array_key", sa.String(64), nullable=True),
        sa.Column("first_row", sa.Integer(), nullable=True),
        sa.Column("rows", sa.Integer(), nullable=True),
        sa.Column("split_rows", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("revision", sa.Integer(), nullable=True),
        sa.Column("notes", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_by", sa.String(80), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name="fk_dataset_appends_dataset_id_datasets"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_dataset_appends"),
    )
    op.create_index("ix_dataset_appends_dataset_id", "dataset_appends", ["dataset_id"])
    op.create_index(
        "ix_dataset_appends_waiting",
        "dataset_appends",
        ["dataset_id"],
        sqlite_where=sa.text(_WAITING),
        postgresql_where=sa.text(_WAITING),
    )
    op.create_table(
        "appended_records",
        sa.Column("append_id", sa.String(40), nullable=False),
        sa.Column("row", sa.Integer(), nullable=False),
        sa.Column("record_id", sa.String(255), nullable=False),
        sa.Column("subject_digest", sa.String(64), nullable=True),
        sa.Column("label", sa.Integer(), nullable=False),
        sa.Column("split", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["append_id"],
            ["dataset_appends.id"],
            name="fk_appended_records_append_id_dataset_appends",
        ),
        sa.PrimaryKeyConstraint("append_id", "row", name="pk_appended_records"),
    )
    op.add_column(
        "datasets", sa.Column("appends", sa.Integer(), server_default="0", nullable=False)
    )
    op.add_column(
        "versions",
        sa.Column("data_rows", sa.Integer(), server_default="2147483647", nullable=False),
    )
    op.execute(
        "UPDATE versions SET data_rows = COALESCE((SELECT datasets.rows FROM datasets"
        " JOIN models ON models.dataset_id = datasets.id WHERE models.id = versions.model_id),"
        " data_rows)"
    )
    with op.batch_alter_table("shown_sets") as table:
        table.add_column(sa.Column("data_rows", sa.Integer(), server_default="0", nullable=False))
        table.drop_constraint(_unique(_BEFORE), type_="unique")
        table.create_unique_constraint(_unique(_SINCE), _SINCE)
    op.execute(
        "UPDATE shown_sets SET data_rows = COALESCE((SELECT datasets.rows FROM datasets"
        " WHERE datasets.id = shown_sets.dataset_id), 0)"
    )


def downgrade() -> None:
    _refuse_grown()
    with op.batch_alter_table("shown_sets") as table:
        table.drop_constraint(_unique(_SINCE), type_="unique")
        table.create_unique_constraint(_unique(_BEFORE), _BEFORE)
        table.drop_column("data_rows")
    op.drop_column("versions", "data_rows")
    op.drop_column("datasets", "appends")
    op.drop_table("appended_records")
    op.drop_table("dataset_appends")


def _unique(columns: list[str]) -> str:
    return f"uq_shown_sets_{'_'.join(columns)}"


def _refuse_grown() -> None:
    """Raise if a dataset has grown: releases before would take its later rows for lost."""
    grown = op.get_bind().scalar(sa.text("SELECT count(*) FROM datasets WHERE appends > 0"))
    if grown:
        raise RuntimeError(
            f"{grown} datasets have appended rows, which the earlier release cannot read; "
            "delete these datasets first, or stay with this release"
        )
