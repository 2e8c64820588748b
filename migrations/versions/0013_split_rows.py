"""Datasets keep how many rows each split has."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

SPLITS = ("train", "validation", "audit")

_DATASETS = sa.table("datasets", sa.column("id", sa.Integer), sa.column("split_rows", sa.JSON))
_RECORDS = sa.table("records", sa.column("dataset_id", sa.Integer), sa.column("split", sa.Integer))


def upgrade() -> None:
    op.add_column("datasets", sa.Column("split_rows", sa.JSON(), nullable=True))
    connection = op.get_bind()
    known: dict[int, dict[str, int]] = {}
    for dataset_id, split, rows in connection.execute(
        sa.select(_RECORDS.c.dataset_id, _RECORDS.c.split, sa.func.count()).group_by(
            _RECORDS.c.dataset_id, _RECORDS.c.split
        )
    ):
        known.setdefault(dataset_id, dict.fromkeys(SPLITS, 0))[SPLITS[split]] = rows
    for dataset_id, rows in known.items():
        connection.execute(
            _DATASETS.update().where(_DATASETS.c.id == dataset_id).values(split_rows=rows)
        )


def downgrade() -> None:
    op.drop_column("datasets", "split_rows")
