"""Which records are excluded is a table of its own, in the place of two indexes on ``records``."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0034"
down_revision = "0033"

_SQLITE = (
    """
    CREATE TRIGGER records_excluded AFTER UPDATE OF excluded_revision ON records
    WHEN OLD.excluded_revision IS NOT NEW.excluded_revision
    BEGIN
        DELETE FROM exclusions WHERE dataset_id = OLD.dataset_id
            AND revision = OLD.excluded_revision AND row = OLD.row;
        INSERT INTO exclusions (dataset_id, revision, row, standing)
            SELECT NEW.dataset_id, NEW.excluded_revision, NEW.row, NEW.erased_at IS NULL
            WHERE NEW.excluded_revision IS NOT NULL;
    END
    """,
    """
    CREATE TRIGGER records_overwritten AFTER UPDATE OF erased_at ON records
    WHEN OLD.excluded_revision IS NEW.excluded_revision
        AND (OLD.erased_at IS NULL) <> (NEW.erased_at IS NULL)
    BEGIN
        UPDATE exclusions SET standing = NEW.erased_at IS NULL WHERE dataset_id = NEW.dataset_id
            AND revision = NEW.excluded_revision AND row = NEW.row;
    END
    """,
)

_POSTGRESQL = (
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

_EXCLUDED = sa.text("excluded_revision IS NOT NULL")
_STANDING = sa.text("excluded_revision IS NOT NULL AND erased_at IS NULL")


def upgrade() -> None:
    op.create_table(
        "exclusions",
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("row", sa.Integer(), nullable=False),
        sa.Column("standing", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("dataset_id", "revision", "row", name="pk_exclusions"),
    )
    op.execute(
        "INSERT INTO exclusions (dataset_id, revision, row, standing)"
        " SELECT dataset_id, excluded_revision, records.row, erased_at IS NULL FROM records"
        " WHERE excluded_revision IS NOT NULL ORDER BY dataset_id, excluded_revision, records.row"
    )
    op.create_index(
        "ix_exclusions_standing",
        "exclusions",
        ["dataset_id", "row"],
        sqlite_where=sa.text("standing = 1"),
        postgresql_where=sa.text("standing"),
    )
    op.drop_index("ix_records_standing", table_name="records")
    op.drop_index("ix_records_excluded", table_name="records")
    if _on_postgresql():
        # Written anew, so that every page has room: on a full one nothing would be saved.
        op.execute("ALTER TABLE records SET (fillfactor = 90)")
        op.execute("CLUSTER records USING pk_records")
        op.execute("ALTER TABLE records SET WITHOUT CLUSTER")
    for statement in _POSTGRESQL if _on_postgresql() else _SQLITE:
        op.execute(statement)


def downgrade() -> None:
    if _on_postgresql():
        op.execute("DROP TRIGGER records_exclusion ON records")
        op.execute("DROP FUNCTION records_exclusion()")
        op.execute("ALTER TABLE records RESET (fillfactor)")
    else:
        op.execute("DROP TRIGGER records_excluded")
        op.execute("DROP TRIGGER records_overwritten")
    _create("ix_records_excluded", ["dataset_id", "excluded_revision", "row"], _EXCLUDED)
    _create("ix_records_standing", ["dataset_id", "row"], _STANDING)
    op.drop_table("exclusions")


def _create(name: str, columns: list[str], where: sa.TextClause) -> None:
    op.create_index(name, "records", columns, sqlite_where=where, postgresql_where=where)


def _on_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"
