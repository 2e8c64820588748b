"""Measure imported versions, and decide whether each is published, promoted or refused.

Runs under the model's lease, so that no batch runs meanwhile and what the version owes is final.
"""

from __future__ import annotations

import logging
from typing import Any

from service.errors import ServiceError
from service.ledger.batches import leases
from service.ledger.database import locks
from service.ledger.database.tables import Model, Version
from service.ledger.reports import measurements
from service.messages.failures import FailureKind, text_of
from service.messages.measure import MEASURE, Answer, Request
from service.messages.parts import Fraction
from workers.compute.process import ComputeFailed, Stopping
from workers.fault_points import reach
from workers.jobs import plans, row_sets
from workers.runtime import Runtime

log = logging.getLogger(__name__)

#: Failures that every further attempt would repeat: the file or the model's description is wrong.
HOPELESS = frozenset(
    {
        FailureKind.CORRUPT_CHECKPOINT,
        FailureKind.NOT_STORED,
        FailureKind.WRONG_OPTIONS,
        FailureKind.UNKNOWN_NAME,
    }
)


def run_due(runtime: Runtime) -> bool:
    """Measure every import that waits for it; True when one was decided."""
    done = False
    with runtime.session() as session:
        waiting = measurements.due(session, now=runtime.now())
    for version_id, model_id in waiting:
        if runtime.stop.is_set():
            break
        with runtime.lease(leases.of_model(model_id)) as held:
            if held is not None:
                done |= _measure(runtime, version_id, held)
    return done


def _measure(runtime: Runtime, version_id: int, held: leases.Held) -> bool:
    request = _start(runtime, version_id, held)
    if request is None:
        return False
    reach("import.claimed")
    try:
        answer = runtime.ask(
            MEASURE,
            request,
            held=held,
            timeout_seconds=runtime.settings.batch_timeout_seconds,
            progress=lambda seen: _show(runtime, version_id, seen),
        )
        reach("import.measured")
        _record(runtime, version_id, held, request, answer)
        reach("import.recorded")
    except leases.LeaseLost:
        log.warning("import %d has a new holder; its work here is dropped", version_id)
        return False
    except Stopping:
        return False  # the attempt counts; there are several
    except (ServiceError, OSError) as error:
        _fail(runtime, version_id, held, error)
    return True


def _start(runtime: Runtime, version_id: int, held: leases.Held) -> Request | None:
    with runtime.session() as session:
        leases.hold(session, held)
        version = session.get_one(Version, version_id)
        model = session.get_one(Model, version.model_id)
        # Locked, so that no row is excluded between reading the revision and the list of rows.
        dataset = locks.dataset(session, model.dataset_id, locks.Hold.REVISION)
        waiting = measurements.start(session, version)
        if waiting is None:
            return None
        if waiting.attempts > runtime.retry.max_attempts:
            error = waiting.error or "the worker died each time it measured it"
            _give_up(runtime, session, model, version, error)
            return None
        return Request(
            data=plans.view(
                session,
                runtime.store,
                dataset,
                rows=version.data_rows,
                excluded=row_sets.excluded_rows(session, dataset.id),
                trained_on=row_sets.trained_on(session, version),
            ),
            data_revision=dataset.revision,
            model=plans.model(model),
            digest=version.digest,
        )


def _record(
    runtime: Runtime,
    version_id: int,
    held: leases.Held,
    request: Request,
    answer: Answer,
) -> None:
    with runtime.session() as session:
        leases.hold(session, held)
        version = session.get_one(Version, version_id)
        measurements.decide(
            session,
            session.get_one(Model, version.model_id),
            version,
            measured=answer.verification,
            data_revision=request.data_revision,
            actor=runtime.actor,
            now=runtime.now(),
        )
        log.info("imported version %d is %s", version.number, version.status)


def _fail(runtime: Runtime, version_id: int, held: leases.Held, error: Exception) -> None:
    log.error("import %d was not measured: %s", version_id, error)
    with runtime.session() as session:
        try:
            leases.hold(session, held)
        except leases.LeaseLost:
            return
        version = session.get_one(Version, version_id)
        model = session.get_one(Model, version.model_id)
        if isinstance(error, ComputeFailed) and error.kind in HOPELESS:
            _give_up(runtime, session, model, version, str(error))
            return
        measurements.put_off(
            session,
            version,
            error=text_of(error),
            not_before=runtime.now() + runtime.retry.pause(1),
        )


def _give_up(runtime: Runtime, session: Any, model: Model, version: Version, error: str) -> None:
    measurements.give_up(
        session,
        model,
        version,
        error=f"it could not be measured ({error}); import it again",
        actor=runtime.actor,
        now=runtime.now(),
    )


def _show(runtime: Runtime, version_id: int, seen: Fraction) -> None:
    with runtime.session() as session:
        measurements.progress(session, version_id, seen.fraction)
