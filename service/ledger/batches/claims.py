"""Claims: a worker takes a model's next batch, or takes one over.

At most one batch of a model runs at a time. The worker that runs it holds the model's lease
(``leases``); if it dies, the next holder takes the batch over as it is. Which erasures wait for a
batch is in ``queue``; how a running batch ends is in ``execution``.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger.audit import chain
from service.ledger.batches import exactness, execution, holds, leases, queue
from service.ledger.database import db, ids, locks
from service.ledger.database.states import BatchStatus
from service.ledger.database.tables import Batch, DeletionRequest, Erasure, Model, Record, Version
from service.ledger.obligations import erasures
from service.ledger.registry import forgotten, lineage, versions
from service.ledger.selection import exclusions, naming


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
    members = queue.oldest_due(session, model, now=now)
    if not members:
        return None
    base = lineage.read(session, model.production_id)
    asked = [erasure.request for erasure in members]
    batch_id = ids.new("b")
    erasures.claim(session, model, members, batch_id=batch_id)
    excluded = exclusions.exclude(session, model.dataset_id, naming.Names.of(asked))
    rows, erased = _rows(session, model, base, asked, excluded)
    kind = queue.kind_of(asked[0])
    whole, others = exactness.whole_classes(session, base, rows)
    method = model.run_now_method
    if kind == "records" and whole and not others:
        # Rows that are all that is left of their classes are forgotten as a class, however they
        # were named: single records are judged by other rows of their class.
        kind = "class"
        if not exactness.leaves_classes(session, model):
            method = exactness.method(session, model, kind)
    # See ``exactness.must_be_exact`` and _catch_up; and no step can be computed from rows that are
    # erased.
    if base.whole_classes or (whole and others) or erased:
        method = exactness.method(session, model, kind)
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
            # All that begin with it, in one line: see ``lookup.events``.
            "requests": [request.id for request in asked],
        },
    )
    return batch


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
    owed = forgotten.owed(session, model, candidate).add_columns(Record.label)
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
    whole, _ = exactness.whole_classes(session, candidate, rows)
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
        method=exactness.method(session, model, "records") if whole else model.run_now_method,
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
