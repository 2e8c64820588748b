"""Run the training runs that wait: make an attempt, and record how it ended.

An attempt is a request (``training_request``), a computation (``training_watch``) and a version
(``training_result``).
"""

from __future__ import annotations

import logging

from sqlalchemy import select

from service.errors import ServiceError
from service.ledger.batches import leases
from service.ledger.database import retries, transactions
from service.ledger.database.states import IllegalMove, RunStatus
from service.ledger.database.tables import TrainingRun
from service.ledger.training import consolidation, runs
from service.messages import train as messages
from service.messages.failures import MACHINE_FAULTS, text_of
from workers.compute.process import ComputeFailed, Stopping
from workers.fault_points import reach
from workers.jobs import kept_states, refusals, training_request, training_result, training_watch
from workers.runtime import Runtime

log = logging.getLogger(__name__)


def consolidate_due(runtime: Runtime) -> bool:
    """Queue retrains of models whose anchor is too old, or whose dataset has grown.

    Other reasons are checked at each batch.
    """
    now, queued = runtime.now(), False
    with runtime.session() as session:
        for model, live in consolidation.aged(session, now=now):
            because = consolidation.reasons(session, model, live, now=now)
            run = consolidation.queue(session, model, because=because, actor=runtime.actor, now=now)
            queued |= run is not None
        queued |= bool(consolidation.queue_grown(session, actor=runtime.actor, now=now))
    return queued


def run_due(runtime: Runtime) -> bool:
    """Run the oldest waiting training run that no other worker runs; True when one was run.

    One at a time, so that other due work is done in between.
    """
    with runtime.session() as session:
        waiting = session.scalars(
            select(TrainingRun.id)
            .where(
                TrainingRun.status.in_(runs.ACTIVE),
                retries.may_begin(TrainingRun.not_before, runtime.now()),
            )
            .order_by(TrainingRun.id)
        ).all()
    for run_id in waiting:
        with runtime.lease(leases.of_run(run_id)) as held:
            if held is None or runtime.stop.is_set():
                continue
            if run_training(runtime, run_id, held):
                return True
    return False


def run_training(runtime: Runtime, run_id: str, held: leases.Held) -> bool:
    """Make one attempt of one run, under its lease; False when it no longer waits."""
    request = training_request.start(runtime, run_id, held)
    if request is None:
        return False
    reach("train.claimed")
    watch = training_watch.Watch(runtime, run_id, held)
    try:
        answer = runtime.ask(
            messages.TRAIN,
            request,
            held=held,
            timeout_seconds=runtime.settings.training_timeout_seconds,
            progress=watch.seen,
            watch=watch,
        )
        reach("train.computed")
        training_result.record(runtime, run_id, held, request, answer)
        reach("train.recorded")
    except leases.LeaseLost:
        log.warning("training run %s has a new holder; its work here is dropped", run_id)
        with runtime.session() as session:
            if not runs.has_ended(session, run_id):
                return True  # the states are the new holder's to destroy, who may just keep one
    except IllegalMove as ended:  # cancelled, or its model withdrawn
        log.info("training run %s: %s", run_id, ended)
    except (Stopping, training_watch.Yielding) as stopping:
        _hand_back(runtime, run_id, held, str(stopping))
    except (ServiceError, OSError) as error:
        _fail(runtime, run_id, held, error)
    _destroy_left(runtime, run_id)
    return True


def _destroy_left(runtime: Runtime, run_id: str) -> None:
    with runtime.session() as session:
        noted = session.get_one(TrainingRun, run_id).state_digest
    kept_states.destroy_strays(runtime, run_id, noted=noted)
    kept_states.destroy_left(runtime)


@transactions.repeated
def _fail(runtime: Runtime, run_id: str, held: leases.Held, error: Exception) -> None:
    log.error("training run %s failed: %s", run_id, error)
    with runtime.session() as session:
        try:
            leases.hold(session, held)
        except leases.LeaseLost:
            return
        run = session.get_one(TrainingRun, run_id)
        if run.status != RunStatus.RUNNING:
            return
        if _is_final(error) or run.attempts >= runtime.retry.max_attempts:
            runs.fail(session, run, error=_why(error), actor=runtime.actor, now=runtime.now())
            return
        runs.hand_back(
            session,
            run,
            actor=runtime.actor,
            not_before=runtime.now() + runtime.retry.pause(run.attempts),
            error=_why(error),
        )


def _is_final(error: Exception) -> bool:
    """Return whether the same training would fail again: the model is at fault, not the machine."""
    return isinstance(error, ComputeFailed) and error.kind not in MACHINE_FAULTS


def _why(error: Exception) -> str:
    """Return the error as text; an unexpected one begins with its class name."""
    if isinstance(error, ComputeFailed) and error.kind not in (
        refusals.METHOD_REFUSALS | MACHINE_FAULTS
    ):
        return f"{error.name}: {error.detail}"
    return text_of(error)


@transactions.repeated
def _hand_back(runtime: Runtime, run_id: str, held: leases.Held, because: str) -> None:
    with runtime.session() as session:
        try:
            leases.hold(session, held)
        except leases.LeaseLost:
            return
        run = session.get_one(TrainingRun, run_id)
        if run.status == RunStatus.RUNNING:
            runs.hand_back(session, run, actor=runtime.actor, because=because)
