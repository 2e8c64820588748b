"""Replay a tombstone list on a restored ledger: what was forgotten is requested again.

Raw rows may be erased in the files although the restored ledger counts them as present, because the
store is newer than the database. No step can be computed from erased rows: the models that contain
them are retrained.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from service.ledger.audit import canonical, chain, machines
from service.ledger.batches import batch_states, holds
from service.ledger.database import ids
from service.ledger.database.states import BatchStatus, RequestStatus
from service.ledger.database.tables import (
    Batch,
    Dataset,
    DeletionRequest,
    Model,
    Record,
    RequestDataset,
    RequestRecord,
    Version,
)
from service.ledger.destruction import withdrawals
from service.ledger.obligations import shares
from service.ledger.registry import keys, lineage, methods
from service.ledger.requests import deadlines, legal_holds, lifecycle, outlook, suppression_lists
from service.ledger.restore.differences import Found, match
from service.ledger.restore.tombstones import Listed, Tombstones
from service.ledger.restore.withdrawal_lists import Withdrawals
from service.ledger.selection import exclusions, naming
from service.ledger.selection.digests import Digester
from service.ledger.training import run_states

#: Principal of requests that no client sent, because rows were found erased.
PRINCIPAL = "restore"

#: Stands for the reason of a legal hold, which the list does not hold: it may name a person.
_AGAIN = "as in the tombstone list, after a backup was restored"


@dataclass(frozen=True)
class Replayed:
    """What a replay did."""

    requests: int
    records: int
    retrained: tuple[str, ...]
    revoked_keys: int


def replay(
    session: Session,
    listed: Tombstones,
    found: Found,
    *,
    digester: Digester,
    actor: str,
    now: datetime,
) -> Replayed:
    """Bring the ledger to where the list has it; workers do the rest. May be repeated.

    ``found`` is the comparison in the same transaction, after the rows of ``found.raw_again`` were
    overwritten.
    """
    places = match(session, listed.requests, digester=digester)
    for key_id in found.keys:
        keys.revoke(session, key_id, actor=actor, now=now)
    for one in found.released:  # first, since they forbid what comes next
        legal_holds.release(session, one.id, reason=_AGAIN, actor=actor, now=now)
    _withdraw(session, found.served_again, actor=actor, now=now)
    ended = {one.id for one in found.reopened}
    for one in found.unheld:
        if one.id in ended:  # while it can be held
            _hold_again(session, one, actor=actor, now=now)
    for one in found.reopened:
        _take_back(session, one, actor=actor)
    for one in found.behind:
        _advance(session, one, actor=actor, now=now)
    again = [
        one
        for one in found.lost
        if _ask_again(session, one, places[one.id], actor=actor, now=now) is not None
    ]
    for one in found.redated:
        dated: dict[str, Any] = {"due_at": one.due_at, "extensions": one.extensions}
        deadlines.restore(session, one.id, actor=actor, now=now, **dated)
    for one in found.unheld:
        if one.id not in ended:  # approved first, which a hold forbids
            _hold_again(session, one, actor=actor, now=now)
    # After the requests, so that suppressions can refer to those that were lost.
    suppression_lists.restore(session, suppression_lists.apart(session, listed.suppressions))
    orphans = [
        _ask_for_erased(session, name, rows, actor=actor, now=now)
        for name, rows in found.erased_in_file.items()
    ]
    retrained = [
        model
        for name, rows in found.erased_in_file.items()
        for model in _retrain(session, name, rows, now)
    ]
    # Trainings start anew: rows that they have seen may be erased, in files or here.
    run_states.give_up(session)
    batch_states.give_up(session)
    done = Replayed(
        requests=len(again) + len(found.behind) + sum(map(bool, orphans)),
        records=len(_named(again, places)) + sum(orphans),
        retrained=tuple(retrained),
        revoked_keys=len(found.keys),
    )
    chain.append(
        session,
        actor=actor,
        action=chain.Action.RESTORE_REPLAYED,
        subject="ledger",
        data={
            "list": {"at": listed.at, "head": listed.head.seq},
            "requests": done.requests,
            "records": done.records,
            "retrained": list(retrained),
            "revoked_keys": done.revoked_keys,
        },
    )
    return done


def _named(
    again: Sequence[Listed], places: Mapping[str, Mapping[str, Collection[int]]]
) -> set[tuple[str, int]]:
    """Return the records that the requests name, by dataset and row."""
    return {(name, row) for one in again for name, rows in places[one.id].items() for row in rows}


def _withdraw(session: Session, again: Withdrawals, *, actor: str, now: datetime) -> None:
    """Withdraw again what the backup brought back; its files are destroyed at once."""
    for name in again.datasets:
        dataset = session.scalars(select(Dataset).where(Dataset.name == name)).one()
        withdrawals.withdraw_dataset(
            session, dataset, models="withdraw", purge="now", actor=actor, now=now
        )
    for name in again.models:
        model = session.scalars(select(Model).where(Model.name == name)).one()
        withdrawals.withdraw_model(session, model, purge="now", actor=actor, now=now)
    for listed in again.versions:
        rows = session.execute(
            select(Model, Version)
            .join(Version, Version.model_id == Model.id)
            .where(Model.name == listed.model, Version.digest == listed.digest)
        )
        for model, version in rows.all():
            withdrawals.withdraw_version(session, model, version, purge="now", actor=actor, now=now)


def _take_back(session: Session, one: Listed, *, actor: str) -> None:
    """Cancel or deny the request as listed, unless work on it has begun."""
    request = session.get_one(DeletionRequest, one.id)
    if request.status == RequestStatus.AWAITING_APPROVAL and one.status == RequestStatus.DENIED:
        lifecycle.deny(session, one.id, because=None, actor=actor)
    elif request.status in (RequestStatus.AWAITING_APPROVAL, RequestStatus.ACCEPTED):
        lifecycle.cancel(session, one.id, actor=actor)


def _advance(session: Session, one: Listed, *, actor: str, now: datetime) -> None:
    """Move a request that the ledger has to the state that the list gives."""
    request = session.get_one(DeletionRequest, one.id)
    if request.status == RequestStatus.AWAITING_APPROVAL:
        lifecycle.approve(session, one.id, actor=actor, now=now)
    if one.status != RequestStatus.ACCEPTED:
        _begin(session, request)


def _hold_again(session: Session, one: Listed, *, actor: str, now: datetime) -> None:
    """Place the legal hold that the list has, unless the request's datasets are unknown here."""
    known = session.get(DeletionRequest, one.id) is not None
    if known and one.legal_hold is not None:
        said: dict[str, Any] = {"code": one.legal_hold, "reason": _AGAIN, "workers_stopped": True}
        legal_holds.place(session, one.id, actor=actor, now=now, **said)


def _begin(session: Session, request: DeletionRequest) -> None:
    """Start processing the request: its records are excluded from every training from now on."""
    if request.status != RequestStatus.PROCESSING:
        machines.requests.move(request, RequestStatus.PROCESSING)
    session.flush()
    listed = select(RequestRecord.dataset_id).where(RequestRecord.request_id == request.listed_by)
    names = naming.Names.of([request])
    datasets = set(session.scalars(listed.distinct()))
    if names.labels and request.dataset_id is not None:
        datasets.add(request.dataset_id)
    for dataset_id in sorted(datasets):
        exclusions.exclude(session, dataset_id, names)


def _ask_again(
    session: Session,
    one: Listed,
    places: Mapping[str, Collection[int]],
    *,
    actor: str,
    now: datetime,
) -> DeletionRequest | None:
    """Record the request again under its id; None if its datasets are unknown here."""
    named = select(Dataset).where(Dataset.name.in_(list(places))).order_by(Dataset.id)
    datasets = session.scalars(named).all()
    if not datasets:
        return None
    standing = {dataset: _standing(session, dataset, places[dataset.name]) for dataset in datasets}
    open_rows = sum(map(len, standing.values()))
    ended = not open_rows and one.status == RequestStatus.COMPLETED
    request = _record(
        session,
        None if one.dataset is None else datasets[0],
        standing,
        actor=actor,
        id=one.id,
        kind=one.kind,
        label=one.label,
        status=RequestStatus.COMPLETED if ended else _first_status(one),
        principal=one.principal,
        already_forgotten=one.already_forgotten
        + sum(len(places[dataset.name]) for dataset in datasets)
        - open_rows,
        not_found=one.not_found,
        created_at=one.created_at,
        due_at=one.due_at,
        regulation=one.regulation,
        extensions=one.extensions,
        asked_at=one.asked_at,
        expected_by=one.due_at,
        completed_at=one.completed_at if ended else None,
    )
    if request.status in (RequestStatus.ACCEPTED, RequestStatus.PROCESSING):
        _share_out(session, datasets, request, now=now)
    if request.status == RequestStatus.PROCESSING:
        _begin(session, request)
    return request


def _standing(session: Session, dataset: Dataset, rows: Collection[int]) -> list[int]:
    """Return those of the rows that are not erased according to the ledger."""
    standing = session.scalars(
        select(Record.row).where(Record.dataset_id == dataset.id, Record.erased_at.is_(None))
    )
    return sorted(set(rows).intersection(standing))


def _first_status(one: Listed) -> RequestStatus:
    if one.status in (RequestStatus.AWAITING_APPROVAL, RequestStatus.ACCEPTED):
        return one.status
    return RequestStatus.PROCESSING


def _ask_for_erased(
    session: Session, name: str, rows: Sequence[int], *, actor: str, now: datetime
) -> int:
    """Request rows that are erased without any request for them; return how many there were.

    They were forgotten after the list was made.
    """
    dataset = session.scalars(select(Dataset).where(Dataset.name == name)).one()
    explained = session.scalars(exclusions.rows(dataset.id))
    left = sorted(set(rows).difference(explained))
    if left:
        request = _record(
            session,
            dataset,
            {dataset: left},
            actor=actor,
            id=ids.new("dr"),
            kind="records",
            label=None,
            status=RequestStatus.PROCESSING,
            principal=PRINCIPAL,
            already_forgotten=0,
            not_found=0,
            created_at=now,
            due_at=outlook.due(now),
            expected_by=outlook.due(now),
            completed_at=None,
        )
        _share_out(session, [dataset], request, now=now)
        _begin(session, request)
    return len(left)


def _record(
    session: Session,
    dataset: Dataset | None,
    rows: Mapping[Dataset, Sequence[int]],
    *,
    actor: str,
    **columns: Any,
) -> DeletionRequest:
    request = DeletionRequest(
        dataset_id=None if dataset is None else dataset.id,
        matched=sum(map(len, rows.values())),
        status_reason="asked for again after a backup was restored",
        **columns,
    )
    if request.matched and request.kind != "class":  # a class is named by its label
        request.listed_by = request.id
    session.add(request)
    session.flush()
    if dataset is None:
        session.add_all(
            RequestDataset(
                request_id=request.id, dataset_id=one.id, matched=len(its), already_forgotten=0
            )
            for one, its in rows.items()
        )
    named = [
        {"request_id": request.id, "dataset_id": one.id, "row": row}
        for one, its in rows.items()
        for row in its
    ]
    if named and request.listed_by is not None:
        session.execute(insert(RequestRecord), named)
    completed = request.status == RequestStatus.COMPLETED
    chain.append(
        session,
        actor=actor,
        action=(
            chain.Action.DELETION_REQUEST_COMPLETED
            if completed
            else chain.Action.DELETION_REQUEST_ACCEPTED
        ),
        subject=f"deletion_request:{request.id}",
        data={
            "dataset": None if dataset is None else dataset.name,
            "kind": request.kind,
            "matched": request.matched,
            "restored": True,
            "due_at": canonical.moment(request.due_at),
        },
    )
    return request


def _share_out(
    session: Session, datasets: Sequence[Dataset], request: DeletionRequest, *, now: datetime
) -> None:
    """Add an erasure for every model that holds the records or is being trained on them."""
    models = [model for one in datasets for model in shares.concerned(session, one.id)]
    shares.give(session, request.id, models, now=now)


def _retrain(
    session: Session, name: str, erased_in_file: Collection[int], now: datetime
) -> list[str]:
    """Queue retrains of the models that contain erased rows, from which no step can be computed."""
    models = session.scalars(
        select(Model)
        .join(Dataset, Dataset.id == Model.dataset_id)
        .where(Dataset.name == name, Model.production_id.is_not(None))
        .order_by(Model.name)
    ).all()
    return [model.name for model in models if _holds(session, model, erased_in_file, now)]


def _holds(session: Session, model: Model, erased_in_file: Collection[int], now: datetime) -> bool:
    live = session.get_one(Version, model.production_id)
    inside = session.scalars(
        select(Record.row).where(
            Record.dataset_id == model.dataset_id, lineage.contained(session, live)
        )
    )
    if not set(erased_in_file).intersection(inside):
        return False
    held = holds.locked(session, model)
    if held is not None:  # its hold may last weeks, and the live version must not wait
        holds.release(
            session, model, held, because="a backup was restored", actor=PRINCIPAL, now=now
        )
    exact = methods.first_exact(session, model, ("records", "class")).model_dump()
    model.run_now_at, model.run_now_method = now, exact
    running = select(Batch).where(Batch.model_id == model.id, Batch.status == BatchStatus.RUNNING)
    for batch in session.scalars(running):  # the backup was taken while it ran
        batch.method = exact
    session.flush()
    return True
