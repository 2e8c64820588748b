"""Work done ahead of batches: describe new models, prepare new anchors."""

from __future__ import annotations

import logging

from sqlalchemy import exists, select

from service.ledger.batches import leases
from service.ledger.database import db
from service.ledger.database.states import VersionStatus
from service.ledger.database.tables import Artifact, Dataset, Model, Version
from service.ledger.registry import internal_state, methods, models
from service.messages import describe
from service.messages import prepare as messages
from service.messages.failures import MACHINE_FAULTS
from workers.compute.process import ComputeDied, ComputeFailed, Stopping
from workers.fault_points import reach
from workers.jobs import artifacts, plans, row_sets
from workers.runtime import Runtime

log = logging.getLogger(__name__)


def describe_due(runtime: Runtime) -> bool:
    """Check that every new model accepts its data; record its weights' names and shapes."""
    with runtime.session() as session:
        waiting = [model.id for model in models.unprepared(session)]
    for model_id in waiting:
        if runtime.resting(f"describe:{model_id}"):
            continue
        with runtime.lease(f"describe:{model_id}") as held:
            if held is not None:
                _describe(runtime, model_id, held)
    return bool(waiting)


def run_due(runtime: Runtime) -> bool:
    """Prepare the anchors of the live versions that have no cache yet."""
    done = False
    for model_id, anchor_id in _unprepared(runtime):
        if runtime.resting(f"prepare:{anchor_id}"):
            continue
        # Under the model's lease: its deletions wait for the preparation, which makes them a step,
        # and none of its rows is erased while the preparation reads them.
        with runtime.lease(leases.of_model(model_id)) as held:
            if held is not None and not runtime.stop.is_set():
                done |= _prepare(runtime, anchor_id, held)
    return done


def _describe(runtime: Runtime, model_id: int, held: leases.Held) -> None:
    with runtime.session() as session:
        model = session.get_one(Model, model_id)
        dataset = session.get_one(Dataset, model.dataset_id)
        assert dataset.classes is not None  # a model's dataset is ready
        request = describe.Request(
            data=plans.view(
                session,
                runtime.store,
                dataset,
                rows=dataset.rows or 0,
                excluded=row_sets.excluded_rows(session, dataset.id),
            ),
            model=plans.model(model),
            classes=dataset.classes,
            features=plans.feature_names(session, dataset),
        )
    try:
        answer = runtime.ask(
            describe.DESCRIBE,
            request,
            held=held,
            timeout_seconds=runtime.settings.batch_timeout_seconds,
        )
        error = ""
    except ComputeFailed as failed:
        if failed.kind in MACHINE_FAULTS:
            # The failure is no property of the model: it is checked again after a while.
            log.warning("model %d was not described: %s", model_id, failed)
            runtime.rest(f"describe:{model_id}")
            return
        answer, error = None, failed.detail
    with runtime.session() as session:
        leases.hold(session, held)
        model = session.get_one(Model, model_id)
        if answer is not None:
            models.prepared(
                session,
                model,
                {name: (one.shape, one.dtype) for name, one in answer.parameters.items()},
                tied=answer.tied,
                actor=runtime.actor,
            )
        else:
            models.invalid(session, model, error=error, actor=runtime.actor)


def _unprepared(runtime: Runtime) -> list[tuple[int, int]]:
    """Return (model, anchor) of live anchors without the cache that the policy's methods need."""
    prepared = exists().where(
        Artifact.version_id == Version.anchor_id,
        Artifact.kind == "caches",
        Artifact.destroyed_at.is_(None),
    )
    with runtime.session() as session:
        policies = dict(models.live_policies(db.read_only(session)))
        if not policies:
            return []
        # Once a chain has forgotten rows its anchor cannot be prepared: the rows are gone.
        anchors = select(Version.model_id, Version.id).where(
            Version.id.in_(policies), Version.id == Version.anchor_id, ~prepared
        )
        waiting = session.execute(anchors).all()
        if not waiting:
            return []  # the usual case at a poll: skip reading what methods need
        known = methods.announced(session)
        return [
            (model_id, anchor_id)
            for model_id, anchor_id in waiting
            if any(
                known[choice.method].requires("anchor")
                for choice in policies[anchor_id].choices()
                if choice.method in known
            )
        ]


def _prepare(runtime: Runtime, anchor_id: int, held: leases.Held) -> bool:
    with runtime.session() as session:
        version = session.get_one(Version, anchor_id)
        model = session.get_one(Model, version.model_id)
        dataset = session.get_one(Dataset, model.dataset_id)
        if internal_state.newest(session, anchor_id, "caches") is not None:
            return False
        request = messages.Request(
            data=plans.view(
                session,
                runtime.store,
                dataset,
                rows=version.data_rows,
                excluded=row_sets.excluded_up_to(session, version),
                trained_on=row_sets.trained_on(session, version),
            ),
            model=plans.model(model),
            digest=version.digest,
            seed=version.seed,
        )
    try:
        answer = runtime.ask(
            messages.PREPARE,
            request,
            held=held,
            timeout_seconds=runtime.settings.training_timeout_seconds,
        )
    except (ComputeFailed, ComputeDied, Stopping, OSError) as error:
        # The first batch will prepare the anchor itself.
        log.warning("version %d was not prepared: %s", anchor_id, error)
        runtime.rest(f"prepare:{anchor_id}")
        return False
    except leases.LeaseLost:
        return False
    reach("prepare.computed")
    with runtime.session() as session:
        leases.hold(session, held)
        if not artifacts.are_there(session, runtime.store, answer.artifacts):
            return False
        version = session.get_one(Version, anchor_id, with_for_update={"key_share": True})
        if version.status == VersionStatus.PURGED:
            return False  # the file was not registered, so the sweep removes it
        if internal_state.newest(session, anchor_id, "caches") is None:
            artifacts.attach(session, version, answer.artifacts, now=runtime.now())
            version.timings = version.timings | answer.timings
    return True
