"""Claims: which erasures of a model are unlearned together next, and how.

At most one batch of a model runs at a time. The worker that runs it holds the model's lease
(``leases``); if it dies, the next holder takes the batch over as it is. How a running batch ends is
in ``execution``.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    and_,
    exists,
    false,
    func,
    literal_column,
    select,
    union_all,
)
from sqlalchemy.orm import Session

from service.ledger.audit import chain
from service.ledger.batches import execution, holds, leases
from service.ledger.database import db, ids, locks
from service.ledger.database.states import BatchStatus, ErasureStatus, RequestStatus
from service.ledger.database.tables import (
    Batch,
    DeletionRequest,
    Erasure,
    Model,
    Record,
    Version,
)
from service.ledger.obligations import erasures, shares
from service.ledger.registry import lineage, methods, versions
from service.ledger.registry.policy import Policy
from service.ledger.selection import exclusions, naming

#: Largest number of erasures in one batch: a statement takes a limited number of values.
MAX_ERASURES = 10_000

#: States of requests whose erasures may be claimed. A request that needs review because of another
#: model is claimed like any other; a cancelled or denied one never is.
_WANTED = (RequestStatus.ACCEPTED, RequestStatus.PROCESSING, RequestStatus.NEEDS_REVIEW)


def training_models(session: Session) -> list[int]:
    """Return ids of models whose running batch was left to the trainings lane, oldest first."""
    return list(
        session.scalars(
            select(Batch.model_id)
            .where(db.among(Batch.status, BatchStatus.RUNNING), Batch.trains)
            .order_by(Batch.created_at)
        )
    )


def training_waits(session: Session) -> bool:
    """Return whether a batch was left to the trainings lane and no worker has taken it yet."""
    waiting = exists().where(
        db.among(Batch.status, BatchStatus.RUNNING),
        Batch.trains,
        Batch.fence == execution.NOBODYS_FENCE,
    )
    return bool(session.scalar(select(waiting)))


@dataclass(frozen=True)
class Due:
    """Ids of models that have something to unlearn now, per lane, longest waiting first."""

    steps: list[int]
    #: Their running batch is left to the trainings lane (``training_models``).
    trainings: list[int]


def due(session: Session, *, now: datetime) -> Due:
    """Return, in one statement, which models have something to unlearn now."""
    running = select(_word("running"), Batch.model_id, Batch.created_at, Batch.trains).where(
        db.among(Batch.status, BatchStatus.RUNNING)
    )
    pending = (
        select(_word("pending"), Erasure.model_id, func.min(Erasure.created_at), false())
        .join(DeletionRequest, DeletionRequest.id == Erasure.request_id)
        .where(*_waits(now))
        .group_by(Erasure.model_id)
    )
    others = [
        select(_word(kind), *wanted.subquery().c, false())
        for kind, wanted in (("held", holds.due(now)), ("catching up", _catching_up()))
    ]
    found: dict[str, dict[int, datetime]] = {}
    trainings = []
    for kind, model_id, since, trains in session.execute(union_all(running, pending, *others)):
        found.setdefault(kind, {})[model_id] = since
        if trains:
            trainings.append(model_id)
    waiting = dict(found.get("running", {}))
    for model_id, oldest in found.get("pending", {}).items():
        if model_id not in waiting:
            model = session.get_one(Model, model_id)
            if model.production_id is not None and _closes(session, model, oldest, now=now):
                waiting[model_id] = oldest
    for kind in ("held", "catching up"):
        for model_id, since in found.get(kind, {}).items():
            waiting.setdefault(model_id, since)
    steps = sorted(waiting.keys() - set(trainings), key=waiting.__getitem__)
    return Due(steps, sorted(trainings, key=waiting.__getitem__))


def _word(kind: str) -> ColumnElement[str]:
    """Return a constant as literal SQL, so that the statement of each poll is planned once."""
    return literal_column(f"'{kind}'")


def due_models(session: Session, *, now: datetime) -> list[int]:
    """Return ids of the models that the deletions lane has something to do for."""
    return due(session, now=now).steps


def claim(
    session: Session, model: Model, *, held: leases.Held, now: datetime, trains: bool = False
) -> Batch | None:
    """Claim the model's next batch, taken over or new; return None when nothing is due.

    ``trains``: the trainings lane claims; it takes batches left to it and nothing else.
    """
    leases.hold(session, held)
    _lock(session, model)
    under_way = {
        batch.status: batch
        for batch in session.scalars(
            select(Batch).where(
                Batch.model_id == model.id,
                db.among(Batch.status, BatchStatus.RUNNING, BatchStatus.HELD),
            )
        )
    }
    left = under_way.get(BatchStatus.RUNNING)
    if left is not None and left.trains != trains:
        return None  # it belongs to the other lane, and the model's next batch waits for it
    if left is not None:
        return _take_over(session, left, held=held)
    if trains:
        return None
    is_held = BatchStatus.HELD in under_way and holds.settle(session, model, held=held, now=now)
    catching_up = _catch_up(session, model, held=held, now=now)
    if catching_up is not None or is_held:
        return catching_up  # while a batch is held, newer erasures wait for its end
    return _form(session, model, held=held, now=now)


def must_be_exact(session: Session, model: Model) -> bool:
    """Return whether the next batch must be exact because the live version forgot a class.

    An approximate step may bring the class back, and its rows are overwritten in every split, so no
    measurement could show it.
    """
    if model.production_id is None:
        return False
    live = session.get_one(Version, model.production_id)
    return bool(live.whole_classes)


def _lock(session: Session, model: Model) -> None:
    """Lock the dataset before requests and erasures, as promoting a first anchor requires."""
    hold = locks.Hold.PUBLICATION if model.production_id is None else locks.Hold.REVISION
    locks.dataset(session, model.dataset_id, hold)
    locks.models(session, [model.id])


def _take_over(session: Session, batch: Batch, *, held: leases.Held) -> Batch:
    if batch.fence == execution.NOBODYS_FENCE:  # handed over as planned: no attempt has failed
        batch.fence = held.fence
        session.flush()
    elif batch.fence != held.fence:  # a new holder: the previous one died or was stopped
        # Before the batch is changed: it may have been the last attempt (``execution.fail``).
        execution.lock_members(session, batch)
        batch.attempts += 1
        batch.fence = held.fence
        session.flush()
        chain.append(
            session,
            actor=f"worker:{held.owner}",
            action=chain.Action.BATCH_TAKEN_OVER,
            subject=f"batch:{batch.id}",
            data={"attempt": batch.attempts},
        )
    return batch


def _form(session: Session, model: Model, *, held: leases.Held, now: datetime) -> Batch | None:
    """Form a batch of the oldest due erasures, on the production version."""
    if model.production_id is None:
        return None
    members = _oldest_due(session, model, now=now)
    if not members:
        return None
    base = lineage.read(session, model.production_id)
    asked = [erasure.request for erasure in members]
    batch_id = ids.new("b")
    erasures.claim(session, model, members, batch_id=batch_id)
    excluded = exclusions.exclude(session, model.dataset_id, naming.Names.of(asked))
    rows, erased = _rows(session, model, base, asked, excluded)
    kind = _kind_of(asked[0])
    whole, others = _whole_classes(session, base, rows)
    method = model.run_now_method
    if kind == "records" and whole and not others:
        # Rows that are all that is left of their classes are forgotten as a class, however they
        # were named: single records are judged by other rows of their class.
        kind = "class"
        method = method if _leaves_classes(session, model) else _exact(session, model, kind)
    # See must_be_exact and _catch_up; and no step can be computed from rows that are erased.
    if base.whole_classes or (whole and others) or erased:
        method = _exact(session, model, kind)
    batch = _open(
        session,
        model,
        base,
        batch_id=batch_id,
        members=members,
        rows=list(rows),
        kind=kind,
        method=method,
        held=held,
        now=now,
    )
    model.run_now_at = None
    model.run_now_method = None
    session.flush()
    chain.append(
        session,
        actor=f"worker:{held.owner}",
        action=chain.Action.BATCH_CLAIMED,
        subject=f"batch:{batch.id}",
        data={
            "model": model.name,
            "erasures": len(members),
            "base": base.number,
            # All that begin with it, in one line: see ``lifecycle.events``.
            "requests": [request.id for request in asked],
        },
    )
    return batch


def _oldest_due(session: Session, model: Model, *, now: datetime) -> list[Erasure]:
    policy = Policy.model_validate(model.policy)
    waiting = _lock_oldest(session, model, now=now, limit=min(policy.max_records, MAX_ERASURES))
    if not waiting:
        return []
    if not _closes(session, model, min(erasure.created_at for erasure, _ in waiting), now=now):
        return []
    first = waiting[0]
    members: list[Erasure] = []
    asked: set[tuple[str | None, int | None]] = set()
    records = 0
    for erasure, request in waiting:
        if erasure.cohort != first[0].cohort or _kind_of(request) != _kind_of(first[1]):
            continue
        # A further request for the same class or the same list adds no records.
        what = (request.listed_by, request.label)
        more = 0 if what in asked else request.matched
        if members and records + more > policy.max_records:
            break
        asked.add(what)
        # The relationship refuses lazy loads; here the row is already loaded.
        erasure.request = request
        members.append(erasure)
        records += more
    return members


def _lock_oldest(
    session: Session, model: Model, *, now: datetime, limit: int
) -> list[tuple[Erasure, DeletionRequest]]:
    """Lock the requests of the oldest erasures that can be claimed; skip those others have locked.

    Whoever changes one of the erasures locks its request, or the model, first.
    """
    found: list[tuple[Erasure, DeletionRequest]] = []
    last = 0
    while len(found) < limit:
        oldest = session.scalars(
            select(Erasure)
            .where(Erasure.model_id == model.id, Erasure.id > last, *_pending(now))
            .order_by(Erasure.id)
            .limit(limit)
            .execution_options(populate_existing=True)
        ).all()
        asked = {one.request_id for one in oldest}
        locked = session.scalars(
            select(DeletionRequest)
            .where(*_wanted(), db.close_together(DeletionRequest.id, asked))
            .order_by(DeletionRequest.id)
            .with_for_update(key_share=True, skip_locked=True)
            .execution_options(populate_existing=True)
        )
        requests = {request.id: request for request in locked}
        found += [(one, requests[one.request_id]) for one in oldest if one.request_id in requests]
        if len(oldest) < limit:
            break
        last = oldest[-1].id
    return found[:limit]


def _rows(
    session: Session,
    model: Model,
    base: Version,
    asked: Sequence[DeletionRequest],
    excluded: exclusions.Excluded,
) -> tuple[dict[int, int], bool]:
    """Return {row: label} of the base's training rows that are named, and whether any is erased.

    Most of them were excluded in this transaction and need not be read again.
    """
    if base.record_list_id is None and len(excluded.records) == _listed(asked):
        trained = [
            one
            for one in excluded.records
            if one.split == lineage.TRAIN_SPLIT and one.row < base.data_rows
        ]
        gone = any(one.erased_at is not None for one in trained)
        return {one.row: one.label for one in trained}, gone
    rows: dict[int, int] = {}
    erased = False
    for theirs in naming.named(naming.Names.of(asked)):
        wanted = select(Record.row, Record.label, Record.erased_at).where(
            Record.dataset_id == model.dataset_id, theirs, lineage.contained(session, base)
        )
        for row, label, erased_at in session.execute(wanted):
            rows[row] = label
            erased = erased or erased_at is not None
    return rows, erased


def _listed(asked: Iterable[DeletionRequest]) -> int | None:
    """Return how many records the requests list; None if the requests do not say it.

    A record on two of the lists counts twice.
    """
    if any(one.kind == "class" or one.dataset_id is None for one in asked):
        return None
    return sum({one.listed_by: one.matched for one in asked}.values())


def _whole_classes(
    session: Session, base: Version, rows: Mapping[int, int]
) -> tuple[set[int], set[int]]:
    """Return the classes of these rows of which the base has no others, and the other classes."""
    if not rows:
        return set(), set()
    left = lineage.left_of_classes(session, base)
    here = Counter(rows.values())
    whole = {label for label, count in here.items() if count == left.get(label)}
    return whole, set(here) - whole


def _leaves_classes(session: Session, model: Model) -> bool:
    """Return whether the method of the model's next batch can forget a class."""
    chosen = model.run_now_method or {"method": Policy.model_validate(model.policy).method}
    found = methods.get(session, chosen["method"])
    return found is not None and found.installed and "class" in found.forgets


def _exact(session: Session, model: Model, kind: str) -> dict[str, Any]:
    """Return the method of a batch that must be exact: the requested one if exact, or the first.

    See ``methods.exact`` for the order.
    """
    asked = model.run_now_method
    if asked is not None:
        found = methods.get(session, asked["method"])
        if found is not None and found.installed and found.exact and kind in found.forgets:
            return asked
    return methods.first_exact(session, model, [kind]).model_dump()


def _catch_up(session: Session, model: Model, *, held: leases.Held, now: datetime) -> Batch | None:
    """Form a batch for a new anchor that owes deletions made since its training began."""
    candidate = session.scalar(
        select(Version)
        .where(Version.model_id == model.id, versions.catching_up())
        .order_by(Version.number.desc())
        .limit(1)
    )
    if candidate is None:
        return None
    owed = versions.owed(session, model, candidate).add_columns(Record.label)
    rows: dict[int, int] = dict(session.execute(owed).all())
    if not rows:
        # Its owed erasures are open requests again; the next batch does them, on this anchor.
        versions.promote(
            session,
            model,
            candidate,
            expected_production=model.production_id,
            reason="nothing owed any more",
            actor=f"worker:{held.owner}",
            now=now,
        )
        return None
    whole, _ = _whole_classes(session, candidate, rows)
    batch = _open(
        session,
        model,
        candidate,
        batch_id=ids.new("b"),
        members=[],
        rows=list(rows),
        kind="records",
        # All owed rows go into one batch; single records and a class have different targets, and
        # only a training without any of them reaches both.
        method=_exact(session, model, "records") if whole else model.run_now_method,
        held=held,
        now=now,
    )
    chain.append(
        session,
        actor=f"worker:{held.owner}",
        action=chain.Action.BATCH_CLAIMED,
        subject=f"batch:{batch.id}",
        data={"model": model.name, "erasures": 0, "base": candidate.number, "catching_up": True},
    )
    return batch


def _open(
    session: Session,
    model: Model,
    base: Version,
    *,
    batch_id: str,
    members: Sequence[Erasure],
    rows: list[int],
    kind: str,
    method: dict[str, Any] | None,
    held: leases.Held,
    now: datetime,
) -> Batch:
    """Open a running batch on ``base`` that forgets these rows of its training data."""
    batch = Batch(
        id=batch_id,
        model_id=model.id,
        status=BatchStatus.RUNNING,
        kind=kind,
        base_version_id=base.id,
        method=method,
        records=len(rows),
        rows=sorted(rows),
        members=erasures.ranges(members),
        seed=secrets.randbits(31),
        fence=held.fence,
        created_at=now,
    )
    session.add(batch)
    session.flush()
    return batch


def _catching_up() -> Any:
    return (
        select(Version.model_id, func.min(Version.created_at))
        .where(versions.catching_up())
        .group_by(Version.model_id)
    )


def _closes(session: Session, model: Model, oldest: datetime, *, now: datetime) -> bool:
    policy = Policy.model_validate(model.policy)
    if model.run_now_at is not None or now - oldest >= timedelta(seconds=policy.max_wait_seconds):
        return True
    records = session.scalar(
        select(func.sum(DeletionRequest.matched))
        .join(Erasure, Erasure.request_id == DeletionRequest.id)
        .where(Erasure.model_id == model.id, *_waits(now))
    )
    return (records or 0) >= policy.max_records


def _waits(now: datetime) -> tuple[ColumnElement[bool], ...]:
    """Return SQL: the erasure can be claimed now, and its ``DeletionRequest`` still wants it."""
    return (*_pending(now), *_wanted())


def _pending(now: datetime) -> tuple[ColumnElement[bool], ...]:
    """Return SQL: the erasure can be claimed now."""
    return (
        shares.is_open(),
        db.among(Erasure.status, ErasureStatus.PENDING),
        shares.may_begin(now),
    )


def _wanted() -> tuple[ColumnElement[bool], ...]:
    """Return SQL: ``DeletionRequest`` wants its erasures to be claimed."""
    return (
        and_(DeletionRequest.is_open),
        db.among(DeletionRequest.status, *_WANTED),
        DeletionRequest.legal_hold_id.is_(None),
    )


def _kind_of(request: DeletionRequest) -> str:
    return "class" if request.kind == "class" else "records"
