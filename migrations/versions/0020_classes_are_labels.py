"""A request for a class names its records by the label alone."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"

_OF_A_CLASS = sa.text("kind = 'class'")

#: Records of a class that had been erased before it was asked for were not matched.
_LIST = """
    INSERT INTO request_records (request_id, dataset_id, row)
    SELECT deletion_requests.id, records.dataset_id, records.row
    FROM deletion_requests JOIN records
        ON records.dataset_id = deletion_requests.dataset_id
        AND records.label = deletion_requests.label
    WHERE deletion_requests.kind = 'class'
        AND (records.erased_at IS NULL OR records.erased_at > deletion_requests.created_at)
"""


def upgrade() -> None:
    op.create_index(
        "ix_deletion_requests_classes",
        "deletion_requests",
        ["dataset_id", "label"],
        sqlite_where=_OF_A_CLASS,
        postgresql_where=_OF_A_CLASS,
    )
    op.execute(
        "DELETE FROM request_records WHERE request_id IN"
        " (SELECT id FROM deletion_requests WHERE kind = 'class' AND label IS NOT NULL)"
    )


def downgrade() -> None:
    op.execute(_LIST)
    op.drop_index("ix_deletion_requests_classes", table_name="deletion_requests")
