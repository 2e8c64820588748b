"""Requests that matched the same records share one list of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"

_SHARED = sa.text("rows_digest IS NOT NULL")

#: Each list of before stays the one of its own request.
_OWN = """
    UPDATE deletion_requests SET listed_by = id WHERE EXISTS
        (SELECT 1 FROM request_records WHERE request_records.request_id = deletion_requests.id)
"""

_LIST = """
    INSERT INTO request_records (request_id, dataset_id, row)
    SELECT deletion_requests.id, request_records.dataset_id, request_records.row
    FROM deletion_requests JOIN request_records
        ON request_records.request_id = deletion_requests.listed_by
    WHERE deletion_requests.listed_by <> deletion_requests.id
"""


def upgrade() -> None:
    op.add_column("deletion_requests", sa.Column("listed_by", sa.String(40)))
    op.add_column("deletion_requests", sa.Column("rows_digest", sa.String(64)))
    op.execute(_OWN)
    op.create_index("ix_deletion_requests_listed_by", "deletion_requests", ["listed_by"])
    op.create_index(
        "ix_deletion_requests_rows_digest",
        "deletion_requests",
        ["rows_digest"],
        sqlite_where=_SHARED,
        postgresql_where=_SHARED,
    )


def downgrade() -> None:
    op.execute(_LIST)
    op.drop_index("ix_deletion_requests_rows_digest", table_name="deletion_requests")
    op.drop_index("ix_deletion_requests_listed_by", table_name="deletion_requests")
    op.drop_column("deletion_requests", "rows_digest")
    op.drop_column("deletion_requests", "listed_by")
