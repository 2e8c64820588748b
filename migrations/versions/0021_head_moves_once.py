"""The head of the audit chain moves once for all lines of a statement, not with each of them.

On SQLite a trigger sees one line at a time, and an update leaves nothing behind.
"""

from __future__ import annotations

from alembic import op

revision = "0021"
down_revision = "0020"

_FOR_A_STATEMENT = (
    """
    CREATE OR REPLACE FUNCTION audit_move_head() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        head audit_head;
        last audit_events;
    BEGIN
        SELECT * INTO head FROM audit_head WHERE id = 1 FOR UPDATE;
        IF EXISTS (
            SELECT 1 FROM (
                SELECT seq, previous_hash,
                    lag(seq, 1, head.seq) OVER in_order AS seq_before,
                    lag(hash, 1, head.hash) OVER in_order AS hash_before
                FROM added WINDOW in_order AS (ORDER BY seq)
            ) AS lines
            WHERE seq IS DISTINCT FROM seq_before + 1 OR previous_hash IS DISTINCT FROM hash_before
        ) THEN
            RAISE EXCEPTION 'an audit line must follow the head of the chain'
                USING ERRCODE = 'restrict_violation';
        END IF;
        -- Once for all lines: a head that moved with each would leave as many dead rows behind,
        -- which whoever reads it has to pass.
        SELECT * INTO last FROM added ORDER BY seq DESC LIMIT 1;
        IF FOUND THEN
            UPDATE audit_head SET seq = last.seq, hash = last.hash WHERE id = 1;
        END IF;
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER audit_events_move_head AFTER INSERT ON audit_events
    REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION audit_move_head()
    """,
    """
    CREATE OR REPLACE FUNCTION audit_head_forward() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.id <> 1 OR NEW.seq <= OLD.seq OR NOT EXISTS (
            SELECT 1 FROM audit_events WHERE seq = NEW.seq AND hash = NEW.hash
        ) THEN
            RAISE EXCEPTION 'the head of the audit chain moves forward only'
                USING ERRCODE = 'restrict_violation';
        END IF;
        RETURN NEW;
    END $$
    """,
)

_FOR_A_LINE = (
    """
    CREATE OR REPLACE FUNCTION audit_move_head() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        UPDATE audit_head SET seq = NEW.seq, hash = NEW.hash
        WHERE id = 1 AND seq = NEW.seq - 1 AND hash = NEW.previous_hash;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'an audit line must follow the head of the chain'
                USING ERRCODE = 'restrict_violation';
        END IF;
        RETURN NEW;
    END $$
    """,
    """
    CREATE TRIGGER audit_events_move_head AFTER INSERT ON audit_events
    FOR EACH ROW EXECUTE FUNCTION audit_move_head()
    """,
    """
    CREATE OR REPLACE FUNCTION audit_head_forward() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.id <> 1 OR NEW.seq <> OLD.seq + 1 THEN
            RAISE EXCEPTION 'the head of the audit chain moves forward only'
                USING ERRCODE = 'restrict_violation';
        END IF;
        RETURN NEW;
    END $$
    """,
)


def upgrade() -> None:
    _replace(_FOR_A_STATEMENT)


def downgrade() -> None:
    _replace(_FOR_A_LINE)


def _replace(statements: tuple[str, ...]) -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    op.execute("DROP TRIGGER audit_events_move_head ON audit_events")
    for statement in statements:
        op.get_bind().exec_driver_sql(statement.replace("%", "%%"))
