"""The reconciler: a background check that what was forgotten is gone, and its repair.

Every change of the ledger should keep the guarantees of completed requests; this checks them from
the tables (``findings``) independently of the code that changed them. It reads the audit chain from
where it stopped and checks what the new lines touch, so it costs nothing while nothing happens.
Changes without a line in the chain, such as a row changed by hand, are found by the *full check*
(``prove_more``): once a day, in small steps, it covers every published version and every completed
request. A violation is repaired by opening the missing work: the request is processed again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger.audit import chain, machines
from service.ledger.database import locks
from service.ledger.database.states import (
    ErasureStatus,
    RequestStatus,
    VersionStatus,
)
from service.ledger.database.tables import (
    AuditEvent,
    AuditHead,
    DeletionRequest,
    Erasure,
    Model,
    Reconciliation,
    Record,
    RequestRecord,
    Version,
)
from service.ledger.obligations import shares
from service.ledger.reconciliation import findings
from service.ledger.reconciliation.findings import Finding, Kind
from service.ledger.registry import lineage, versions
from service.ledger.selection import exclusions, naming

#: Largest number of audit lines in one check; the next check continues from there.
LINES_AT_ONCE = 2_000
#: Longest delay of the check of changes that make nothing live.
EVERY = timedelta(seconds=60)
#: Time between the beginnings of two full checks.
FULL_EVERY = timedelta(days=1)

_PUBLISHING = frozenset({chain.Action.VERSION_PROMOTED, chain.Action.VERSION_IMPORTED})


@dataclass(frozen=True)
class Changes:
    """What audit lines touch, up to one of them: models with a new version, ended requests."""

    until: int
    lines: int = 0
    models: Collection[str] = ()
    requests: Collection[str] = ()


@dataclass
class _Touched:
    models: set[str] = field(default_factory=set)
    requests: set[str] = field(default_factory=set)

    def add(self, action: str, subject: str) -> None:
        _, _, name = subject.partition(":")
        if action in _PUBLISHING:
            self.models.add(name.rpartition("/")[0])
        elif action == chain.Action.DELETION_REQUEST_COMPLETED:
            self.requests.add(name)


def is_due(session: Session, *, now: datetime) -> bool:
    """Return whether there is something to check, from one small row and the head of the chain.

    New lines: at once after a promotion, else each minute. Also the next step of a full check.
    """
    seen = _seen(session)
    head = session.scalar(select(AuditHead.seq).where(AuditHead.id == 1)) or 0
    if seen is None:
        return head > 0
    if _proving(seen, now=now):
        return True
    if head == seen.seq:
        return False
    return _passed(seen.at, EVERY, now=now) or bool(
        session.scalar(
            select(AuditEvent.seq)
            .where(AuditEvent.seq > seen.seq, AuditEvent.action.in_(_PUBLISHING))
            .limit(1)
        )
    )


def _seen(session: Session) -> Reconciliation | None:
    return session.scalars(select(Reconciliation).where(Reconciliation.id == 1)).one_or_none()


def _proving(seen: Reconciliation, *, now: datetime) -> bool:
    """Return whether a full check is under way, or is due."""
    under_way = seen.full_version is not None or seen.full_request is not None
    return under_way or seen.full_at is None or _passed(seen.full_at, FULL_EVERY, now=now)


def _passed(since: datetime, least: timedelta, *, now: datetime) -> bool:
    """Return whether this time has passed, or the clock was set back by as much or more."""
    return abs(now - since) >= least


def changes(session: Session) -> Changes:
    """Return what happened since the last check, up to ``LINES_AT_ONCE`` lines."""
    since = session.scalar(select(Reconciliation.seq)) or 0
    lines = session.execute(
        select(AuditEvent.seq, AuditEvent.action, AuditEvent.subject)
        .where(AuditEvent.seq > since)
        .order_by(AuditEvent.seq)
        .limit(LINES_AT_ONCE)
    ).all()
    touched = _Touched()
    for line in lines:
        touched.add(line.action, line.subject)
    until = lines[-1].seq if lines else since
    return Changes(until, len(lines), sorted(touched.models), sorted(touched.requests))


def looked(session: Session, until: int, *, now: datetime) -> None:
    """Record how far the audit chain was checked."""
    row = session.get(Reconciliation, 1)
    if row is None:
        # The first check begins with the first line, so it covers all that a full check would.
        session.add(Reconciliation(id=1, seq=until, at=now, full_at=now))
    else:
        row.seq, row.at = until, now
    session.flush()


@dataclass(frozen=True)
class Step:
    """A part of a full check: its findings, and the position after it."""

    broken: Sequence[Finding]
    #: Versions are checked up to this id; None: all of them.
    full_version: int | None
    #: Requests are checked up to this id; None: all of them, or none yet.
    full_request: str | None


def prove_more(session: Session, *, now: datetime) -> Step | None:
    """Return the next step of a full check, to pass to ``proven``; None while none is due.

    A step is one published version, or as many completed requests as a statement takes.
    """
    seen = _seen(session)
    if seen is None or not _proving(seen, now=now):
        return None
    if seen.full_request is None:
        version = findings.next_published(session, seen.full_version or 0)
        if version is not None:
            return Step(sorted(findings.of_version(session, version)), version.id, None)
    names = findings.next_completed(session, seen.full_request or "")
    broken = sorted(findings.of_requests(session, names))
    return Step(broken, None, names[-1] if names else None)


def proven(session: Session, step: Step, *, now: datetime) -> None:
    """Record how far the full check has come."""
    row = session.get_one(Reconciliation, 1)
    if row.full_version is None and row.full_request is None:
        row.full_at = now
    row.full_version, row.full_request = step.full_version, step.full_request
    session.flush()


def broken_by(session: Session, found: Changes) -> list[Finding]:
    """Return violations by what was touched."""
    of_models = findings.of_models(session, found.models)
    return sorted(of_models | findings.of_requests(session, found.requests))


def repair(
    session: Session, found: Iterable[Finding], *, actor: str, now: datetime
) -> list[Finding]:
    """Open the missing work; return the findings that were still true once everything was locked.

    A version that is not live is retired. Otherwise the request is processed again: the model
    gets its erasure back, and workers handle it like any other.
    """
    wanted = list(found)
    _lock(session, wanted)
    broken = [one for one in wanted if _stands(session, one)]
    if not broken:
        return []
    for version_id in {one.version_id for one in broken if one.kind == Kind.HELD}:
        lineage.doubt(session.get_one(Version, version_id))
    _withdraw(session, broken, actor=actor, now=now)
    for request_id, reasons in _to_reopen(session, broken).items():
        _reopen(session, request_id, reasons, actor=actor, now=now)
    chain.append(
        session,
        actor=actor,
        action=chain.Action.LEDGER_RECONCILED,
        subject="ledger",
        data={"found": dict(Counter(one.kind.value for one in broken))},
    )
    return broken


def overwritten(session: Session, dataset: str, rows: int, *, actor: str) -> None:
    """Record that raw rows which counted as erased were found and overwritten again."""
    chain.append(
        session,
        actor=actor,
        action=chain.Action.LEDGER_RECONCILED,
        subject=f"dataset:{dataset}",
        data={"found": {"raw_rows": rows}},
    )


def _lock(session: Session, found: Sequence[Finding]) -> None:
    """Lock what is repaired, in the order of ``locks``, so that it cannot change meanwhile."""
    requests = sorted({one.request for one in found})
    datasets = {
        dataset_id
        for some in findings.pieces(requests)
        for dataset_id in session.scalars(
            select(RequestRecord.dataset_id)
            .join(DeletionRequest, DeletionRequest.listed_by == RequestRecord.request_id)
            .where(DeletionRequest.id.in_(some))
            .union(select(DeletionRequest.dataset_id).where(DeletionRequest.id.in_(some)))
        )
        if dataset_id is not None
    }
    # A first promotion, or a claim, would change what is missing.
    locks.datasets(session, datasets, locks.Hold.PUBLICATION)
    locks.models(session, {one.model_id for one in found if one.model_id})
    locks.requests(session, requests)


def _stands(session: Session, one: Finding) -> bool:
    """Return whether the guarantee is still violated."""
    if one.kind == Kind.HELD:
        version = session.get_one(Version, one.version_id)
        session.refresh(version)
        published = version.status == VersionStatus.PUBLISHED
        return published and one in findings.held(
            session, version, requests=[one.request], since=version.data_revision
        )
    return one in findings.of_requests(session, [one.request])


def _withdraw(session: Session, broken: Sequence[Finding], *, actor: str, now: datetime) -> None:
    for version_id in sorted({one.version_id for one in broken if one.kind == Kind.HELD}):
        version = session.get_one(Version, version_id)
        model = session.get_one(Model, version.model_id)
        if model.production_id != version_id:
            versions.retire(session, model, version, actor=actor, now=now)


def _to_reopen(session: Session, broken: Sequence[Finding]) -> dict[str, list[Finding]]:
    """Return requests to process again, with their findings; a withdrawal settles the others."""
    found: dict[str, list[Finding]] = {}
    for one in broken:
        live = one.kind == Kind.HELD and (
            session.get_one(Model, one.model_id).production_id == one.version_id
        )
        if live or one.kind != Kind.HELD:
            found.setdefault(one.request, []).append(one)
    return found


def _reopen(
    session: Session, request_id: str, because: Sequence[Finding], *, actor: str, now: datetime
) -> None:
    request = session.get_one(DeletionRequest, request_id)
    machines.reopened_requests.move(request, RequestStatus.PROCESSING)
    request.completed_at = None
    request.status_reason = "opened again: a check found that not all of it was forgotten"
    session.flush()
    for model_id in sorted({one.model_id for one in because if one.model_id}):
        _open_erasure(session, request_id, model_id, now=now)
    if any(one.kind == Kind.STANDING for one in because):
        for dataset_id in _not_excluded(session, request_id):
            exclusions.exclude(session, dataset_id, naming.Names.of([request]))
    chain.append(
        session,
        actor=actor,
        action=chain.Action.DELETION_REQUEST_REOPENED,
        subject=f"deletion_request:{request_id}",
        data={"because": sorted({one.kind.value for one in because})},
    )


def _open_erasure(session: Session, request_id: str, model_id: int, *, now: datetime) -> None:
    share = _erasure(session, request_id, model_id)
    if share is None:
        shares.give(session, request_id, [session.get_one(Model, model_id)], now=now)
    elif share.status == ErasureStatus.COMPLETED:
        machines.reopened_erasures.move(share, ErasureStatus.PENDING)
        share.batch_id = share.version_id = share.completed_at = None
        share.attempts = 0
        session.flush()


def _not_excluded(session: Session, request_id: str) -> Sequence[int]:
    named = naming.records(
        Record.dataset_id, Record.row, Record.excluded_revision, requests=[request_id]
    ).subquery()
    wanted = select(named.c.dataset_id).where(named.c.excluded_revision.is_(None)).distinct()
    return session.scalars(wanted.order_by(named.c.dataset_id)).all()


def _erasure(
    session: Session, request_id: str, model_id: int, *statuses: ErasureStatus
) -> Erasure | None:
    wanted = select(Erasure).where(Erasure.request_id == request_id, Erasure.model_id == model_id)
    if statuses:
        wanted = wanted.where(Erasure.status.in_(statuses))
    return session.scalar(wanted)
