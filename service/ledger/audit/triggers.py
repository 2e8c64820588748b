"""Database triggers that keep the audit chain append-only and ``exclusions`` up to date.

On PostgreSQL a function appends audit lines as well: a client that computed the hashes itself would
lock the chain's head during its round trips.

The migrations create them; tables created directly from the models get the same ones. Those of the
chain stop mistakes and a stolen application password, but not a database owner; against that there
is ``chain.verify`` and the signed head. Those on ``records`` maintain ``exclusions`` as a database
maintains an index.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import event, insert
from sqlalchemy.engine import Connection

from service.ledger.audit.hash_chain import GENESIS
from service.ledger.database.tables import AuditEvent, AuditHead

SQLITE = (
    """
    CREATE TRIGGER audit_events_no_update BEFORE UPDATE ON audit_events
    BEGIN SELECT RAISE(ABORT, 'audit_events is append-only'); END
    """,
    """
    CREATE TRIGGER audit_events_no_delete BEFORE DELETE ON audit_events
    BEGIN SELECT RAISE(ABORT, 'audit_events is append-only'); END
    """,
    """
    CREATE TRIGGER audit_events_in_order BEFORE INSERT ON audit_events
    WHEN NOT EXISTS (
        SELECT 1 FROM audit_head
        WHERE id = 1 AND seq = NEW.seq - 1 AND hash = NEW.previous_hash
    )
    BEGIN SELECT RAISE(ABORT, 'an audit line must follow the head of the chain'); END
    """,
    """
    CREATE TRIGGER audit_events_move_head AFTER INSERT ON audit_events
    BEGIN UPDATE audit_head SET seq = NEW.seq, hash = NEW.hash WHERE id = 1; END
    """,
    """
    CREATE TRIGGER audit_head_forward BEFORE UPDATE ON audit_head
    WHEN NEW.id <> 1 OR NEW.seq <> OLD.seq + 1
    BEGIN SELECT RAISE(ABORT, 'the head of the audit chain moves forward only'); END
    """,
    """
    CREATE TRIGGER audit_head_no_delete BEFORE DELETE ON audit_head
    BEGIN SELECT RAISE(ABORT, 'the head of the audit chain stays'); END
    """,
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

POSTGRESQL = (
    """
    CREATE OR REPLACE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
    END $$
    """,
    """
    CREATE TRIGGER audit_events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_events
    FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse()
    """,
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
    """
    CREATE TRIGGER audit_head_forward BEFORE UPDATE ON audit_head
    FOR EACH ROW EXECUTE FUNCTION audit_head_forward()
    """,
    """
    CREATE TRIGGER audit_head_stays BEFORE DELETE OR TRUNCATE ON audit_head
    FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse()
    """,
    """
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
    """,
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


@event.listens_for(AuditHead.__table__, "after_create")
def _add_head(_table: Any, connection: Connection, **_: Any) -> None:
    connection.execute(insert(AuditHead).values(id=1, seq=0, hash=GENESIS))


@event.listens_for(AuditHead.metadata, "after_create")
def _add_triggers(_metadata: Any, connection: Connection, *, tables: Any, **_: Any) -> None:
    if AuditEvent.__table__ not in tables:
        return
    for statement in SQLITE if connection.dialect.name == "sqlite" else POSTGRESQL:
        connection.exec_driver_sql(statement.replace("%", "%%"))
