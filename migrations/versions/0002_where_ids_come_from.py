"""Datasets say where their record and subject ids come from, and whether case tells ids apart."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_COLUMNS = ("record_id_origin", "subject_id_origin", "id_case")

_DATASETS = sa.table(
    "datasets",
    sa.column("id", sa.Integer),
    sa.column("status", sa.String),
    sa.column("source", sa.JSON),
    sa.column("record_id_origin", sa.String),
    sa.column("subject_id_origin", sa.String),
)
_RECORDS = sa.table(
    "records",
    sa.column("dataset_id", sa.Integer),
    sa.column("row", sa.Integer),
    sa.column("record_id", sa.String),
    sa.column("subject_digest", sa.String),
)


def upgrade() -> None:
    for column in _COLUMNS:
        op.add_column("datasets", sa.Column(column, sa.String(length=24), nullable=True))
    connection = op.get_bind()
    known = connection.execute(
        sa.select(_DATASETS.c.id, _DATASETS.c.source).where(_DATASETS.c.status == "ready")
    ).all()
    for dataset_id, source in known:
        connection.execute(
            _DATASETS.update()
            .where(_DATASETS.c.id == dataset_id)
            .values(**_origins(connection, dataset_id, source))
        )


def downgrade() -> None:
    for column in reversed(_COLUMNS):
        op.drop_column("datasets", column)


def _origins(connection: sa.Connection, dataset_id: int, source: dict[str, Any]) -> dict[str, str]:
    """Ids that were generated were the numbers of the rows."""
    numbered = sa.cast(_RECORDS.c.row, sa.String) == _RECORDS.c.record_id
    rows, generated, subjects = connection.execute(
        sa.select(
            sa.func.count(),
            sa.func.count(sa.case((numbered, 1))),
            sa.func.count(_RECORDS.c.subject_digest),
        ).where(_RECORDS.c.dataset_id == dataset_id)
    ).one()
    named = (source.get("columns") or {}).get("record_id") is not None
    return {
        "record_id_origin": "generated" if rows == generated and not named else "source",
        "subject_id_origin": "source" if subjects else "absent",
    }
