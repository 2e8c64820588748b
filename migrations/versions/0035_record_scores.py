"""Scores of single records lie in a table of their own, which is erased with the raw rows."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0035"
down_revision = "0034"

_OF_RECORDS = ("worst_records", "per_record")


def upgrade() -> None:
    op.create_table(
        "record_scores",
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("row", sa.Integer(), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("scores", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name="fk_record_scores_dataset_id_datasets"
        ),
        sa.ForeignKeyConstraint(
            ["version_id"], ["versions.id"], name="fk_record_scores_version_id_versions"
        ),
        sa.PrimaryKeyConstraint("dataset_id", "row", "version_id", name="pk_record_scores"),
    )
    _without_records()


def downgrade() -> None:
    op.drop_table("record_scores")


def _without_records() -> None:
    """Remove the lists from stored verifications: nearly all of their rows are erased."""
    connection = op.get_bind()
    stored = sa.table("verifications", sa.column("id"), sa.column("measured", sa.JSON()))
    rows = connection.execute(
        sa.select(stored.c.id, stored.c.measured).where(
            sa.cast(stored.c.measured, sa.Text()).like("%_record%")
        )
    ).all()
    for row_id, measured in rows:
        document: dict[str, Any] = json.loads(measured) if isinstance(measured, str) else measured
        metrics = document.get("metrics")
        if not isinstance(metrics, dict):
            continue
        document["metrics"] = {
            name: (
                {k: v for k, v in metric.items() if k not in _OF_RECORDS}
                if isinstance(metric, dict)
                else metric
            )
            for name, metric in metrics.items()
        }
        connection.execute(sa.update(stored).where(stored.c.id == row_id).values(measured=document))
