"""Compute out-of-fold margins of an anchor's training rows, so that ``iau`` has a target for each.

One model is trained at a time, without one fold of the rows, and the margins so far are stored: a
worker that dies or gives way loses the training of one model. After the last model the targets are
computed; these are kept, and the margins with which a verification judges.

The values describe single rows. They are destroyed with their anchor, when another anchor is live
or the policy asks for none; a row's values are destroyed when the row is overwritten. Rows that
were excluded since the anchor's training get no values.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from models_store import errors, tensors
from service.ledger.batches import leases, queue
from service.ledger.database import db, locks
from service.ledger.database.states import VersionStatus
from service.ledger.database.tables import Artifact, Dataset, Model, Version
from service.ledger.registry import internal_state, margins
from service.ledger.registry.policy import Policy
from service.ledger.training import runs
from service.messages.margins import MARGINS, Request
from service.messages.parts import Made
from workers.compute import margin_files
from workers.compute.process import Stopping
from workers.fault_points import reach
from workers.jobs import artifacts, extra_models, plans, purge, row_sets
from workers.runtime import Runtime

log = logging.getLogger(__name__)


def run_wanted(runtime: Runtime, policies: Mapping[int, Policy]) -> bool:
    """Train one model for a live anchor that lacks margins; True when one was trained.

    ``policies`` are those of the live versions, by their ids.
    """
    return extra_models.train_one(runtime, "margins", _wanting(runtime, policies), _train)


def _wanting(runtime: Runtime, policies: Mapping[int, Policy]) -> list[int]:
    wanted = {live_id: one.margins for live_id, one in policies.items() if one.margins.splits}
    if not wanted:
        return []
    with runtime.session() as session:
        return margins.missing(db.read_only(session), wanted)


def _train(runtime: Runtime, anchor_id: int, held: leases.Held) -> bool:
    found = _request(runtime, anchor_id)
    if found is None:
        return False
    request, revision = found
    answer = extra_models.ask(
        runtime,
        "margins",
        anchor_id,
        MARGINS,
        request,
        held=held,
        watch=lambda: _go_on(runtime, anchor_id),
    )
    if answer is None:
        return False
    reach("margins.computed")
    return _record(runtime, anchor_id, held, answer.made, revision)


def _go_on(runtime: Runtime, anchor_id: int) -> None:
    """Raise ``Stopping`` for work with precedence, and when the margins are not wanted any more."""
    with runtime.session() as session:
        db.read_only(session)
        if queue.training_waits(session) or runs.one_waits(session, now=runtime.now()):
            raise Stopping("a batch or a training has precedence")
        if not _is_wanted(session, session.get_one(Version, anchor_id)):
            raise Stopping("its margins are not asked for any more")


def _is_wanted(session: Session, anchor: Version) -> bool:
    """Return whether the anchor's margins are missing and the live version steps from it."""
    model = session.get_one(Model, anchor.model_id)
    if model.production_id is None:
        return False
    live = session.get_one(Version, model.production_id)
    asked = Policy.model_validate(model.policy).margins
    return live.anchor_id == anchor.id and margins.is_missing(session, anchor, asked)


def _request(runtime: Runtime, anchor_id: int) -> tuple[Request, int] | None:
    """Return the request for the next model, and the dataset's revision; None: it is not wanted."""
    with runtime.session() as session:
        anchor = session.get_one(Version, anchor_id)
        model = session.get_one(Model, anchor.model_id)
        # Locked, so that no row is excluded between the revision and the list of excluded rows.
        dataset = locks.dataset(session, model.dataset_id, locks.Hold.REVISION)
        if not _is_wanted(session, anchor):
            return None
        asked = Policy.model_validate(model.policy).margins
        newest = next(reversed(margins.kept(session, anchor_id)), None)
        resume = newest if newest is not None and margins.is_of(newest, asked) else None
        request = Request(
            data=plans.view(
                session,
                runtime.store,
                dataset,
                rows=anchor.data_rows,
                excluded=row_sets.excluded_rows(session, dataset.id),
                trained_on=row_sets.trained_on(session, anchor),
            ),
            model=plans.model(model),
            anchor=anchor.digest,
            together=row_sets.subjects(session, dataset.id, anchor),
            seed=anchor.seed,
            splits=asked.splits,
            folds=asked.folds,
            resume=None if resume is None else resume.digest,
        )
        return request, dataset.revision


def _record(runtime: Runtime, anchor_id: int, held: leases.Held, made: Made, revision: int) -> bool:
    """Register the new file, without rows excluded meanwhile, and destroy the one before.

    A row is overwritten only after it was excluded. A file that is registered before the exclusion
    is found when the row is overwritten; one that is registered later does not have the row.
    """
    registered: bool | None = None
    while registered is None:
        with runtime.session() as session:
            dataset_id = _dataset_id(session, anchor_id)
            now = session.get_one(Dataset, dataset_id).revision
            gone = row_sets.excluded_rows(session, dataset_id, after=revision, revision=now)
        less, revision = _without(runtime, made, gone), now
        if less is not None:
            _drop(runtime, made)
            made = less
        registered = _register(runtime, anchor_id, held, made, dataset_id, revision)
    if not registered:
        _drop(runtime, made)
        return False
    reach("margins.recorded")
    _destroy_older(runtime, anchor_id)
    return True


def _register(
    runtime: Runtime,
    anchor_id: int,
    held: leases.Held,
    made: Made,
    dataset_id: int,
    revision: int,
) -> bool | None:
    """Return whether the file was registered; None: rows were excluded after ``revision``."""
    with runtime.session() as session:
        leases.hold(session, held)
        if locks.dataset(session, dataset_id, locks.Hold.REVISION).revision != revision:
            return None
        if not artifacts.are_there(session, runtime.store, [made]):
            return False
        anchor = _locked(session, anchor_id)
        if anchor.status == VersionStatus.PURGED or not _is_wanted(session, anchor):
            return False
        _attach(runtime, session, anchor, made)
    return True


def forget(runtime: Runtime, dataset_id: int, rows: Collection[int]) -> bool:
    """Destroy the values of rows that are being overwritten; False: it has to be tried again.

    Files that have them are written again without them.
    """
    with runtime.session() as session:
        found = margins.kept_on_dataset(session, dataset_id)
    done = [_forget(runtime, anchor_id, one[-1], rows) for anchor_id, one in found.items()]
    return all(done)


def _forget(runtime: Runtime, anchor_id: int, newest: Artifact, rows: Collection[int]) -> bool:
    try:
        less = _without(runtime, _made(newest), rows)
    except (errors.CorruptCheckpoint, errors.NotStored) as damage:
        log.warning("margins of version %d are given up: %s", anchor_id, damage)
        return _destroy(runtime, anchor_id, [newest.id])
    if less is not None and not _replace(runtime, anchor_id, newest, less):
        _drop(runtime, less)
        return False
    return _destroy_older(runtime, anchor_id)


def _replace(runtime: Runtime, anchor_id: int, newest: Artifact, less: Made) -> bool:
    """Register ``less`` in place of ``newest``; False: that is not the newest any more."""
    with runtime.session() as session:
        if not artifacts.are_there(session, runtime.store, [less]):
            return False
        anchor = _locked(session, anchor_id)
        kept = [one.id for one in margins.kept(session, anchor_id)]
        if kept[-1:] != [newest.id]:
            return False
        _attach(runtime, session, anchor, less)
    return True


def _without(runtime: Runtime, made: Made, gone: Collection[int]) -> Made | None:
    """Store a copy of a file without the rows ``gone``; None: it has none of them."""
    if not gone:
        return None
    blobs = runtime.store.blobs
    left = margin_files.without(tensors.load(blobs, made.digest, kind="margins"), gone)
    if left is None:
        return None
    saved = tensors.save(blobs, left, blobs.manifest("margins", made.digest), kind="margins")
    return Made(
        digest=saved.digest,
        size_bytes=saved.size_bytes,
        kind="margins",
        notes=made.notes | {"rows": len(left["rows"])},
        of_anchor=False,
    )


def _drop(runtime: Runtime, made: Made) -> None:
    """Destroy an unregistered file, unless another worker has registered the same content."""
    purge.destroy_orphan(runtime, "margins", made.digest)


def _made(artifact: Artifact) -> Made:
    return Made(
        digest=artifact.digest,
        size_bytes=artifact.size_bytes,
        kind="margins",
        notes=artifact.notes,
        of_anchor=False,
    )


def _destroy_older(runtime: Runtime, anchor_id: int) -> bool:
    with runtime.session() as session:
        older = [one.id for one in margins.kept(session, anchor_id)[:-1]]
    return not older or _destroy(runtime, anchor_id, older)


def _destroy(runtime: Runtime, anchor_id: int, artifact_ids: Sequence[int]) -> bool:
    """Destroy artifacts of an anchor; False: another worker is destroying some of its state.

    ``superseded.of_model`` finds what is left then.
    """
    with runtime.lease(purge.key(anchor_id)) as held:
        if held is None:
            return False
        with runtime.session() as session:
            there = {one.id for one in margins.kept(session, anchor_id)}
        if going := [one for one in artifact_ids if one in there]:
            purge.destroy_artifacts(runtime, anchor_id, going, held)
    return True


def _attach(runtime: Runtime, session: Session, anchor: Version, made: Made) -> None:
    said = {"kind": made.kind, "digest": made.digest, "size_bytes": made.size_bytes}
    internal_state.attach(session, anchor, [said | {"notes": made.notes}], now=runtime.now())


def _locked(session: Session, anchor_id: int) -> Version:
    return session.scalars(select(Version).where(Version.id == anchor_id).with_for_update()).one()


def _dataset_id(session: Session, anchor_id: int) -> int:
    anchor = session.get_one(Version, anchor_id)
    return session.get_one(Model, anchor.model_id).dataset_id
