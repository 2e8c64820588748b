"""The audit chain: append-only lines, each bound to the previous one by its hash.

``append`` only queues a line; the lines of a transaction are written together at its commit,
because every writer locks the one row of the chain's head. Since that lock is taken last, with
everything but the hashes prepared, it costs little throughput and cannot be part of a deadlock. On
PostgreSQL one statement locks the head, chains the lines and writes them (``triggers``). A query
for audit events in the same session writes the queue first, as autoflush does for other rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Row, event, insert, select, text
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction

from service.ledger.audit import canonical, changes, hash_chain, signing, triggers  # noqa: F401  # triggers: made with the tables
from service.ledger.database import db
from service.ledger.database.tables import AuditEvent, AuditHead

GENESIS = hash_chain.GENESIS

#: ``type`` of a signed head of the chain.
CHECKPOINT = "chain-head"

_QUEUE = "audit_queue"


class Action(StrEnum):
    """What happened, according to an audit line: ``noun:verb``."""

    DATASET_CREATED = "dataset:created"
    DATASET_INGESTED = "dataset:ingested"
    DATASET_FAILED = "dataset:failed"
    DATASET_APPEND_QUEUED = "dataset:append_queued"
    DATASET_APPENDED = "dataset:appended"
    DATASET_APPEND_FAILED = "dataset:append_failed"
    DATASET_TEXTS_READ = "dataset:texts_read"
    DATASET_WITHDRAWN = "dataset:withdrawn"
    DATASET_PURGED = "dataset:purged"
    MODEL_CREATED = "model:created"
    MODEL_PREPARED = "model:prepared"
    MODEL_FAILED = "model:failed"
    MODEL_POLICY_CHANGED = "model:policy_changed"
    MODEL_RUN_NOW = "model:run_now"
    MODEL_WITHDRAWN = "model:withdrawn"
    MODEL_PURGED = "model:purged"
    TRAINING_RUN_QUEUED = "training_run:queued"
    TRAINING_RUN_STARTED = "training_run:started"
    TRAINING_RUN_COMPLETED = "training_run:completed"
    TRAINING_RUN_FAILED = "training_run:failed"
    TRAINING_RUN_HANDED_BACK = "training_run:handed_back"
    TRAINING_RUN_CANCELLED = "training_run:cancelled"
    TRAINING_RUN_STATE_DESTROYED = "training_run:state_destroyed"
    RECORD_LIST_CREATED = "record_list:created"
    TOKENIZER_ADDED = "tokenizer:added"
    TOKENIZER_REMOVED = "tokenizer:removed"
    ENCODER_CREATED = "encoder:created"
    ENCODER_CHECKED = "encoder:checked"
    ENCODER_FAILED = "encoder:failed"
    ENCODER_REMOVED = "encoder:removed"
    VERSION_REGISTERED = "version:registered"
    VERSION_IMPORTED = "version:imported"
    VERSION_VERIFIED = "version:verified"
    VERSION_PROMOTED = "version:promoted"
    VERSION_SET_ASIDE = "version:set_aside"
    VERSION_APPROVED = "version:approved"
    VERSION_REJECTED = "version:rejected"
    VERSION_RETIRED = "version:retired"
    VERSION_WITHDRAWN = "version:withdrawn"
    VERSION_PURGED = "version:purged"
    VERSION_STATE_DESTROYED = "version:state_destroyed"
    VERSION_COMPARED = "version:compared"
    #: Its weights are in a model registry outside the service; they were removed from it.
    VERSION_COPIED = "version:copied"
    VERSION_COPY_REMOVED = "version:copy_removed"
    VERSION_COPY_FOUND = "version:copy_found"
    DELETION_REQUEST_PREVIEWED = "deletion_request:previewed"
    DELETION_REQUEST_ACCEPTED = "deletion_request:accepted"
    DELETION_REQUEST_AWAITING_APPROVAL = "deletion_request:awaiting_approval"
    DELETION_REQUEST_APPROVED = "deletion_request:approved"
    DELETION_REQUEST_DENIED = "deletion_request:denied"
    DELETION_REQUEST_NO_MATCH = "deletion_request:no_match"
    #: Of ledgers of before; now ``batch:claimed`` names the requests.
    DELETION_REQUEST_CLAIMED = "deletion_request:claimed"
    #: Its records are left out of all training; no model has to forget them.
    DELETION_REQUEST_EXCLUDED = "deletion_request:excluded"
    DELETION_REQUEST_COMPLETED = "deletion_request:completed"
    DELETION_REQUEST_CANCELLED = "deletion_request:cancelled"
    DELETION_REQUEST_NEEDS_REVIEW = "deletion_request:needs_review"
    DELETION_REQUEST_RETRIED = "deletion_request:retried"
    #: A model or the dataset that held its records was withdrawn; ``data`` names it.
    DELETION_REQUEST_HOLDER_WITHDRAWN = "deletion_request:holder_withdrawn"
    DELETION_REQUEST_LEGAL_HOLD_PLACED = "deletion_request:legal_hold_placed"
    DELETION_REQUEST_LEGAL_HOLD_RELEASED = "deletion_request:legal_hold_released"
    DELETION_REQUEST_EXTENDED = "deletion_request:extended"
    DELETION_REQUEST_DUE_SOON = "deletion_request:due_soon"
    DELETION_REQUEST_OVERDUE = "deletion_request:overdue"
    DELETION_REQUEST_REOPENED = "deletion_request:reopened"
    #: One decision about every request that fits a filter; each request has its own line, too.
    BULK_DECISION_BEGUN = "bulk_decision:begun"
    BULK_DECISION_ENDED = "bulk_decision:ended"
    BATCH_CLAIMED = "batch:claimed"
    BATCH_TAKEN_OVER = "batch:taken_over"
    BATCH_LEFT_TO_TRAINING = "batch:left_to_training"
    BATCH_HELD = "batch:held"
    BATCH_COMPLETED = "batch:completed"
    BATCH_FAILED = "batch:failed"
    BATCH_HANDED_BACK = "batch:handed_back"
    BATCH_SPLIT = "batch:split"
    BATCH_STATE_DESTROYED = "batch:state_destroyed"
    RECORDS_ERASED = "records:erased"
    SUPPRESSION_LIFTED = "suppression:lifted"
    KEY_CREATED = "key:created"
    KEY_REVOKED = "key:revoked"
    KEY_SIGNED_IN = "key:signed_in"
    KEY_SIGNED_OUT = "key:signed_out"
    WEBHOOK_CREATED = "webhook:created"
    WEBHOOK_CHANGED = "webhook:changed"
    WEBHOOK_ENABLED = "webhook:enabled"
    WEBHOOK_DISABLED = "webhook:disabled"
    WEBHOOK_SECRET_ROTATED = "webhook:secret_rotated"  # noqa: S105  # a word, not a secret
    #: It is told again, or skips, what lies between two lines.
    WEBHOOK_REPLAYED = "webhook:replayed"
    WEBHOOK_TESTED = "webhook:tested"
    WEBHOOK_REMOVED = "webhook:removed"
    RESTORE_REPLAYED = "restore:replayed"
    LEDGER_RECONCILED = "ledger:reconciled"


@dataclass(frozen=True)
class Line:
    """A caller's part of an audit line; the chain adds the number, the time and the hashes."""

    action: Action
    subject: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Queued:
    """A line with its actor, and its ``data`` as plain values."""

    actor: str
    action: str
    subject: str
    data: dict[str, Any]


@dataclass
class _Queue:
    events: list[_Queued] = field(default_factory=list)
    written: int = 0
    #: Per savepoint: the numbers of queued and of written lines when it began.
    marks: dict[SessionTransaction, tuple[int, int]] = field(default_factory=dict)


def append(
    session: Session, *, actor: str, action: Action, subject: str, data: dict[str, Any]
) -> None:
    """Add one line to the chain with this transaction; see ``append_many``."""
    append_many(session, actor=actor, lines=[Line(action, subject, data)])


def append_many(session: Session, *, actor: str, lines: Iterable[Line]) -> None:
    """Add lines to the chain with this transaction; all are written at its commit, or none.

    ``data`` holds counts, digests and ids of our own: never a record's or a subject's id, a label
    or a secret.
    """
    queue = _queue(session)
    made = [
        _Queued(actor, line.action.value, line.subject, canonical.plain(line.data))
        for line in lines
    ]
    # Begin the transaction now: a commit without one would not write the lines.
    session.connection()
    queue.events.extend(made)


def adds(session: Session) -> bool:
    """Return whether this transaction adds a line to the chain."""
    queue: _Queue | None = session.info.get(_QUEUE)
    return queue is not None and bool(queue.events)


def write(session: Session) -> None:
    """Write the lines queued in this transaction; the chain is locked from here to its end."""
    queue: _Queue | None = session.info.get(_QUEUE)
    if queue is None or queue.written == len(queue.events):
        return
    session.flush()  # everything else first: the chain's lock comes last
    events = queue.events[queue.written :]
    prepared = [hash_chain.Prepared.of(**vars(one)) for one in events]
    if session.get_bind().dialect.name == "postgresql":
        given = [vars(one) | vars(ready) for one, ready in zip(events, prepared, strict=True)]
        session.execute(_APPEND, {"given": json.dumps(given, separators=(",", ":"))})
    else:
        session.execute(insert(AuditEvent), _chained(session, events, prepared, at=db.now()))
    queue.written = len(queue.events)


def page(
    session: Session,
    *,
    limit: int,
    before: int | None = None,
    subject: str | None = None,
    action: Action | None = None,
) -> list[AuditEvent]:
    """Return at most ``limit`` lines, newest first, before line ``before``; filter if asked to."""
    wanted = select(AuditEvent)
    if before is not None:
        wanted = wanted.where(AuditEvent.seq < before)
    if subject is not None:
        wanted = wanted.where(AuditEvent.subject == subject)
    if action is not None:
        wanted = wanted.where(AuditEvent.action == action.value)
    return list(session.scalars(wanted.order_by(AuditEvent.seq.desc()).limit(limit)))


@dataclass(frozen=True)
class Checked:
    """The result of checking the chain: the last good line, and the first bad one if any."""

    lines: int
    seq: int
    hash: str
    bad_seq: int | None = None
    problem: str | None = None

    @property
    def sound(self) -> bool:
        """Return whether no line was changed and none is missing in between."""
        return self.problem is None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self) | {"sound": self.sound}


def verify(session: Session, *, since: int = 0) -> Checked:
    """Recompute the chain from the line after ``since`` to the head; a million lines fit.

    The line ``since`` itself is trusted: a signed checkpoint holds its hash. If the tail and the
    head were cut together, only such a checkpoint shows it: see ``holds``.
    """
    write(session)
    # Read the head first: lines appended meanwhile are then not reported as missing.
    head = session.execute(select(AuditHead.seq, AuditHead.hash).where(AuditHead.id == 1)).one()
    at = Checked(0, since, _hash_of(session, since) if since else GENESIS)
    at = _walk(session, at, until=head.seq, chunk=1000)
    if not at.sound:
        return at
    if at.seq != head.seq:
        return replace(at, bad_seq=at.seq + 1, problem="the line is missing")
    if at.hash != head.hash:
        return replace(at, bad_seq=at.seq, problem="the head has another hash than the last line")
    return at


def holds(session: Session, *, seq: int, hash: str) -> bool:
    """Return whether the chain still has the line of an earlier checkpoint, unchanged."""
    if seq == 0:
        return hash == GENESIS
    return session.scalar(select(AuditEvent.hash).where(AuditEvent.seq == seq)) == hash


def checkpoint(session: Session, signer: signing.Signer, *, now: datetime) -> dict[str, Any]:
    """Return the chain's signed head; a saved copy proves later whether earlier lines changed."""
    write(session)
    head = session.execute(select(AuditHead.seq, AuditHead.hash).where(AuditHead.id == 1)).one()
    return signer.sign(
        {
            "type": CHECKPOINT,
            "seq": head.seq,
            "hash": head.hash,
            "at": canonical.moment(now),
        }
    )


def describe(line: AuditEvent | Row[Any]) -> dict[str, Any]:
    """Return a line in its public form: the members covered by its hash, and the hash."""
    return {
        "seq": line.seq,
        "at": canonical.moment(line.at),
        "actor": line.actor,
        "action": line.action,
        "subject": line.subject,
        "data": line.data,
        "previous_hash": line.previous_hash,
        "hash": line.hash,
    }


def _hash_of(session: Session, seq: int) -> str:
    found = session.scalar(select(AuditEvent.hash).where(AuditEvent.seq == seq))
    return found if found is not None else "missing"


def _walk(session: Session, at: Checked, *, until: int, chunk: int) -> Checked:
    columns = AuditEvent.__table__.columns
    wanted = select(*columns).where(AuditEvent.seq > at.seq, AuditEvent.seq <= until)
    rows = session.execute(wanted.order_by(AuditEvent.seq).execution_options(yield_per=chunk))
    try:
        for row in rows:
            line = describe(row)
            problem = hash_chain.problem(line, seq=at.seq + 1, previous_hash=at.hash)
            if problem is not None:
                return replace(at, bad_seq=at.seq + 1, problem=problem)
            at = Checked(at.lines + 1, line["seq"], line["hash"])
    except ValueError:  # a column holds an impossible value; read again, line by line
        if chunk > 1:
            return _walk(session, at, until=until, chunk=1)
        return replace(at, bad_seq=at.seq + 1, problem="the line cannot be read")
    finally:
        rows.close()
    return at


_APPEND = text("SELECT audit_append(CAST(:given AS json))")


def _chained(
    session: Session,
    events: Sequence[_Queued],
    prepared: Sequence[hash_chain.Prepared],
    *,
    at: datetime,
) -> list[dict[str, Any]]:
    """Return the rows of these lines on SQLite, where BEGIN IMMEDIATE has locked the database."""
    head = session.execute(_HEAD).one_or_none()
    if head is None:
        raise RuntimeError("the audit chain has no head; bring the database up to date first")
    seq, last = head
    moment = canonical.moment(at)
    rows: list[dict[str, Any]] = []
    for one, ready in zip(events, prepared, strict=True):
        before, seq = last, seq + 1
        last = ready.hash_at(seq=seq, at=moment, previous_hash=before)
        rows.append(vars(one) | {"seq": seq, "at": at, "previous_hash": before, "hash": last})
    return rows


_HEAD = select(AuditHead.seq, AuditHead.hash).where(AuditHead.id == 1)


def _queue(session: Session) -> _Queue:
    queue: _Queue = session.info.setdefault(_QUEUE, _Queue())
    return queue


@event.listens_for(Session, "before_commit")
def _write_at_commit(session: Session) -> None:
    if not session.in_nested_transaction():  # a savepoint's release is not the commit
        write(session)


@event.listens_for(Session, "after_commit")
def _tell_after_commit(session: Session) -> None:
    queue: _Queue | None = session.info.get(_QUEUE)
    if queue is not None and not session.in_nested_transaction():
        changes.tell(session, queue.events)


@event.listens_for(Session, "do_orm_execute")
def _write_before_reading(state: ORMExecuteState) -> None:
    mapper = state.bind_mapper
    if state.is_select and mapper is not None and mapper.class_ is AuditEvent:
        write(state.session)


@event.listens_for(Session, "after_transaction_create")
def _mark_savepoint(session: Session, transaction: SessionTransaction) -> None:
    if transaction.nested:
        queue = _queue(session)
        queue.marks[transaction] = (len(queue.events), queue.written)


@event.listens_for(Session, "after_soft_rollback")
def _forget_rolled_back(session: Session, transaction: SessionTransaction) -> None:
    queue: _Queue | None = session.info.get(_QUEUE)
    if queue is not None and transaction in queue.marks:
        kept, written = queue.marks[transaction]
        del queue.events[kept:]
        queue.written = min(queue.written, written)


@event.listens_for(Session, "after_transaction_end")
def _forget_ended(session: Session, transaction: SessionTransaction) -> None:
    # A savepoint's mark stays: SQLAlchemy reports its rollback after its end.
    if transaction.parent is None:
        session.info.pop(_QUEUE, None)
