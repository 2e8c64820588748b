"""Sets of rows whose figures were shown, of all models of a dataset together."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"

SETS = ("retain", "calibration", "audit")

#: Verifications with the revision that they were measured at: of those that do not say it, the one
#: at which their batch's records were excluded, or that of their training.
_MEASURED = """
    SELECT models.dataset_id, versions.record_list_id, verifications.set_changes,
        COALESCE(
            (SELECT MAX(records.excluded_revision) FROM batch_records JOIN records
                ON records.dataset_id = models.dataset_id AND records.row = batch_records.row
                WHERE batch_records.batch_id = versions.batch_id
                AND verifications.set_changes IS NULL),
            versions.data_revision)
    FROM verifications
    JOIN versions ON versions.id = verifications.version_id
    JOIN models ON models.id = versions.model_id
"""


def upgrade() -> None:
    op.create_table(
        "shown_sets",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("dataset_id", sa.Integer(), sa.ForeignKey("datasets.id"), nullable=False),
        sa.Column("name", sa.String(16), nullable=False),
        sa.Column("list_id", sa.String(40), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.UniqueConstraint("dataset_id", "name", "list_id", "revision"),
    )
    _fill()


def _fill() -> None:
    connection = op.get_bind()
    typed = sa.text(_MEASURED).columns(
        dataset_id=sa.Integer(),
        record_list_id=sa.String(),
        set_changes=sa.JSON(),
        measured_at=sa.Integer(),
    )
    shown: set[tuple[int, str, str, int]] = set()
    for dataset_id, list_id, changes, revision in connection.execute(typed):
        known: dict[str, Any] = changes or {"revision": revision, "rows": {}}
        # What was stored before anything was withheld was shown.
        shown |= {
            (dataset_id, name, list_id or "", known["revision"])
            for name in SETS
            if not known["rows"].get(name)
        }
    rows = [
        dict(zip(("dataset_id", "name", "list_id", "revision"), one, strict=True))
        for one in sorted(shown)
    ]
    if rows:
        table = sa.table("shown_sets", *map(sa.column, rows[0]))
        connection.execute(sa.insert(table), rows)


def downgrade() -> None:
    op.drop_table("shown_sets")
