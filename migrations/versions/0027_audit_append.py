"""PostgreSQL chains audit lines itself, so that no client holds the head while it waits."""

from __future__ import annotations

from alembic import op

revision = "0027"
down_revision = "0026"

_APPEND = """
    CREATE OR REPLACE FUNCTION audit_append(given json) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        head audit_head;
        moment timestamptz;
        written text;
        line record;
        last text;
        hashes text[] := '{}';
    BEGIN
        SELECT * INTO head FROM audit_head WHERE id = 1 FOR UPDATE;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'the audit chain has no head; bring the database up to date first';
        END IF;
        moment := clock_timestamp();
        written := to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');
        last := head.hash;
        FOR line IN SELECT opening, middle, ending, n FROM ROWS FROM (
            json_to_recordset(given) AS (opening text, middle text, ending text)
        ) WITH ORDINALITY AS lines(opening, middle, ending, n) ORDER BY n LOOP
            last := encode(sha256(convert_to(
                line.opening || written || line.middle || last
                    || '","seq":' || (head.seq + line.n) || line.ending,
                'UTF8'
            )), 'hex');
            hashes := hashes || last;
        END LOOP;
        INSERT INTO audit_events (seq, at, actor, action, subject, data, previous_hash, hash)
        SELECT head.seq + n, moment, actor, action, subject, data,
            lag(hash, 1, head.hash) OVER (ORDER BY n), hash
        FROM ROWS FROM (
            json_to_recordset(given) AS (actor text, action text, subject text, data json),
            unnest(hashes)
        ) WITH ORDINALITY AS lines(actor, action, subject, data, hash, n)
        ORDER BY n;
    END $$
    """


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.get_bind().exec_driver_sql(_APPEND.replace("%", "%%"))


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION audit_append(json)")
