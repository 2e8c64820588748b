"""Indexes on what is still to be done, in the place of those that grow with history."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"

_KEPT = sa.text("destroyed_at IS NULL")
_OPEN = sa.text("status IN ('pending', 'claimed', 'needs_review')")
_EXCLUDED = sa.text("excluded_revision IS NOT NULL")
_STANDING = sa.text("excluded_revision IS NOT NULL AND erased_at IS NULL")


def upgrade() -> None:
    op.drop_index("ix_erasures_model_id_status", table_name="erasures")
    op.drop_index("ix_records_dataset_id_excluded_revision", table_name="records")
    op.drop_index("ix_versions_status", table_name="versions")
    op.create_index("ix_versions_status_retired_at", "versions", ["status", "retired_at"])
    _create("ix_artifacts_kept", "artifacts", ["kind", "version_id"], _KEPT)
    _create("ix_erasures_open", "erasures", ["model_id", "id"], _OPEN)
    _create("ix_records_excluded", "records", ["dataset_id", "excluded_revision", "row"], _EXCLUDED)
    _create("ix_records_standing", "records", ["dataset_id", "row"], _STANDING)


def downgrade() -> None:
    op.drop_index("ix_records_standing", table_name="records")
    op.drop_index("ix_records_excluded", table_name="records")
    op.drop_index("ix_erasures_open", table_name="erasures")
    op.drop_index("ix_artifacts_kept", table_name="artifacts")
    op.drop_index("ix_versions_status_retired_at", table_name="versions")
    op.create_index("ix_versions_status", "versions", ["status"])
    op.create_index(
        "ix_records_dataset_id_excluded_revision", "records", ["dataset_id", "excluded_revision"]
    )
    op.create_index("ix_erasures_model_id_status", "erasures", ["model_id", "status", "id"])


def _create(name: str, table: str, columns: list[str], where: sa.TextClause) -> None:
    op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)
