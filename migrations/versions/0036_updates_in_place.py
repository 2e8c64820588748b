"""A claim changes rows of requests and erasures in place: no index covers what it changes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0036"
down_revision = "0035"

_OPEN = {
    "erasures": "status IN ('pending', 'claimed', 'needs_review')",
    "deletion_requests": (
        "status IN ('awaiting_approval', 'accepted', 'processing', 'needs_review')"
    ),
}

#: How full pages are made, in percent: each row has room for a longer version of itself.
_FILLED = {"erasures": 40, "deletion_requests": 45}

#: Keys of ``erasures``: each is looked up again for every row that a claim or an end changes.
_KEYS = {"request_id": "deletion_requests", "model_id": "models", "version_id": "versions"}

_PER_STATEMENT = (
    "DROP TRIGGER records_exclusion ON records",
    """
    CREATE OR REPLACE FUNCTION records_exclusion() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        -- Planned each time: a plan that is kept would be one for the number of rows of the first
        -- statement, and a plan for one row is quadratic for thousands.
        IF EXISTS (SELECT FROM was WHERE excluded_revision IS NOT NULL) THEN
            EXECUTE 'DELETE FROM exclusions USING was JOIN made USING (dataset_id, row)
                WHERE was.excluded_revision IS NOT NULL
                    AND was.excluded_revision IS DISTINCT FROM made.excluded_revision
                    AND exclusions.dataset_id = was.dataset_id
                    AND exclusions.revision = was.excluded_revision
                    AND exclusions.row = was.row';
            EXECUTE 'UPDATE exclusions SET standing = made.erased_at IS NULL
                FROM made JOIN was USING (dataset_id, row)
                WHERE was.excluded_revision = made.excluded_revision
                    AND (was.erased_at IS NULL) <> (made.erased_at IS NULL)
                    AND exclusions.dataset_id = made.dataset_id
                    AND exclusions.revision = made.excluded_revision
                    AND exclusions.row = made.row';
        END IF;
        EXECUTE 'INSERT INTO exclusions (dataset_id, revision, row, standing)
            SELECT made.dataset_id, made.excluded_revision, made.row, made.erased_at IS NULL
            FROM made JOIN was USING (dataset_id, row)
            WHERE made.excluded_revision IS NOT NULL
                AND was.excluded_revision IS DISTINCT FROM made.excluded_revision
            ORDER BY made.dataset_id, made.excluded_revision, made.row';
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER records_exclusion AFTER UPDATE ON records
    REFERENCING OLD TABLE AS was NEW TABLE AS made
    FOR EACH STATEMENT EXECUTE FUNCTION records_exclusion()
    """,
)

_PER_ROW = (
    "DROP TRIGGER records_exclusion ON records",
    """
    CREATE OR REPLACE FUNCTION records_exclusion() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF OLD.excluded_revision = NEW.excluded_revision THEN
            UPDATE exclusions SET standing = NEW.erased_at IS NULL
            WHERE dataset_id = NEW.dataset_id AND revision = NEW.excluded_revision
                AND exclusions.row = NEW.row;
            RETURN NULL;
        END IF;
        IF OLD.excluded_revision IS NOT NULL THEN
            DELETE FROM exclusions
            WHERE dataset_id = OLD.dataset_id AND revision = OLD.excluded_revision
                AND exclusions.row = OLD.row;
        END IF;
        IF NEW.excluded_revision IS NOT NULL THEN
            INSERT INTO exclusions (dataset_id, revision, row, standing)
            VALUES (NEW.dataset_id, NEW.excluded_revision, NEW.row, NEW.erased_at IS NULL);
        END IF;
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER records_exclusion AFTER UPDATE OF excluded_revision, erased_at ON records
    FOR EACH ROW WHEN (
        OLD.excluded_revision IS DISTINCT FROM NEW.excluded_revision
        OR NEW.excluded_revision IS NOT NULL
            AND (OLD.erased_at IS NULL) <> (NEW.erased_at IS NULL)
    ) EXECUTE FUNCTION records_exclusion()
    """,
)

#: Where erasures of batches of before lie: between the first and the last of each batch.
_MEMBERS = """
    UPDATE batches SET members = CAST('[[' || ends.first || ', ' || ends.last || ']]' AS {json})
    FROM (
        SELECT batch_id, MIN(id) AS first, MAX(id) AS last FROM erasures
        WHERE batch_id IS NOT NULL GROUP BY batch_id
    ) AS ends
    WHERE ends.batch_id = batches.id
"""

#: Rows of batches without a version, which the schema of before lists as well.
_LIST = """
    INSERT INTO batch_records (batch_id, row)
    SELECT batches.id, CAST(one.value AS integer) FROM batches, {each}(batches.rows) AS one
    WHERE batches.rows IS NOT NULL
"""


def upgrade() -> None:
    op.add_column("batches", sa.Column("members", sa.JSON(), nullable=True))
    op.add_column("batches", sa.Column("rows", sa.JSON(), nullable=True))
    op.execute(_MEMBERS.format(json="json" if _on_postgresql() else "text"))
    op.drop_index("ix_erasures_batch_id", table_name="erasures")
    op.drop_index("ix_erasures_open", table_name="erasures")
    op.drop_index("ix_deletion_requests_status_due_at", table_name="deletion_requests")
    with op.batch_alter_table("erasures") as erasures:
        for column, referred in _KEYS.items():
            erasures.drop_constraint(f"fk_erasures_{column}_{referred}", type_="foreignkey")
    for table, condition in _OPEN.items():
        if _on_postgresql():  # the new column writes the table anew, with the free space
            op.execute(f"ALTER TABLE {table} SET (fillfactor = {_FILLED[table]})")
        # SQLite adds no stored column to a table that exists.
        computed = sa.Computed(condition, persisted=_on_postgresql())
        op.add_column(table, sa.Column("is_open", sa.Boolean(), computed, nullable=False))
    _create("ix_erasures_open", "erasures", ["model_id", "id"])
    _create("ix_deletion_requests_open", "deletion_requests", ["id"])
    if _on_postgresql():
        for statement in _PER_STATEMENT:
            op.execute(statement)


def downgrade() -> None:
    if _on_postgresql():
        for statement in _PER_ROW:
            op.execute(statement)
    op.drop_index("ix_deletion_requests_open", table_name="deletion_requests")
    op.drop_index("ix_erasures_open", table_name="erasures")
    for table in _OPEN:
        op.drop_column(table, "is_open")
        if _on_postgresql():
            op.execute(f"ALTER TABLE {table} RESET (fillfactor)")
    with op.batch_alter_table("erasures") as erasures:
        for column, referred in _KEYS.items():
            erasures.create_foreign_key(
                f"fk_erasures_{column}_{referred}", referred, [column], ["id"]
            )
    op.create_index("ix_deletion_requests_status_due_at", "deletion_requests", ["status", "due_at"])
    where = sa.text(_OPEN["erasures"])
    op.create_index(
        "ix_erasures_open",
        "erasures",
        ["model_id", "id"],
        sqlite_where=where,
        postgresql_where=where,
    )
    op.create_index("ix_erasures_batch_id", "erasures", ["batch_id"])
    op.execute(_LIST.format(each="json_array_elements_text" if _on_postgresql() else "json_each"))
    op.drop_column("batches", "rows")
    op.drop_column("batches", "members")


def _create(name: str, table: str, columns: list[str]) -> None:
    op.create_index(
        name,
        table,
        columns,
        sqlite_where=sa.text("is_open = 1"),
        postgresql_where=sa.text("is_open"),
    )


def _on_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"
