"""Unlearning a batch, from the claim to the promoted version. Start reading here.

1. claim (``claiming``): the model's lease is taken; the oldest due erasures become a batch.
2. compute (``computing``): one request to the compute process: load, update, store, verify. A batch
   whose next method trains is handed to the trainings lane first, so that no other model's batch
   waits for it.
3. record (``recording``): one transaction registers the version, stores what was measured, and
   promotes or rejects it. A rejected version is followed by the policy's next method; one
   that lost accuracy, or of which memorised records may be left, may be held (``holds``).
4. erase (``erase``): raw rows that no model needs any more are overwritten, and finished requests
   completed.

No transaction is open while something computes. If a worker dies anywhere before the end of step 3,
the old version stays live and another worker takes the batch over; files that it stored are orphans
until a sweep. Every step may be repeated.
"""

from __future__ import annotations

import logging
import time

from service.errors import ServiceError
from service.ledger.batches import execution, leases, queue
from service.ledger.database import transactions
from service.ledger.database.tables import Batch
from service.ledger.registry import versions
from service.messages.failures import text_of
from workers.compute.process import Stopping
from workers.fault_points import reach
from workers.jobs import computing, erase, observed, retrains
from workers.jobs.claiming import Claimed, begun
from workers.jobs.computing import BatchFailed
from workers.runtime import Runtime

log = logging.getLogger(__name__)


def run_due(runtime: Runtime) -> bool:
    """Unlearn what is due on any model, then erase; True when something was done."""
    done, going_on = False, True
    while going_on:
        with runtime.session() as session:
            due = queue.due(session, now=runtime.now())
        if due.steps:
            # Batches that steps hand to the trainings lane are not in the list read before.
            going_on = _run_models(runtime, due.steps, trains=False) or run_trainings_due(runtime)
        else:
            going_on = _run_models(runtime, due.trainings, trains=True)
        done |= going_on
    return done or erase.run_due(runtime)


def run_steps_due(runtime: Runtime) -> bool:
    """Unlearn what is due; hand a batch whose next method trains to the trainings lane.

    Takes a batch of each model in turn, until none is due whose lease this worker can get.
    """
    done, going_on = False, True
    while going_on:
        with runtime.session() as session:
            due = queue.due_models(session, now=runtime.now())
        going_on = _run_models(runtime, due, trains=False)
        done |= going_on
    # A batch that was run has erased already what could be erased after it.
    return done or erase.run_due(runtime)


def run_trainings_due(runtime: Runtime) -> bool:
    """Run the batches that were handed to the trainings lane."""
    with runtime.session() as session:
        due = queue.training_models(session)
    return _run_models(runtime, due, trains=True)


def _run_models(runtime: Runtime, due: list[int], *, trains: bool) -> bool:
    done = [run_model(runtime, model_id, trains=trains) for model_id in due]
    return any(done)


def run_model(runtime: Runtime, model_id: int, *, trains: bool) -> bool:
    """Run the model's next due batch, unless another worker runs one; True if there was one.

    ``trains``: this is the trainings lane, to which the deletions lane hands what trains.
    """
    if runtime.stop.is_set():
        return False
    began = time.monotonic()
    with begun(runtime, model_id, trains=trains) as found:
        if found is None:
            return False
        with observed.batch(runtime, found[1], began=began):
            if not _run(runtime, *found, trains=trains):
                return False
            with observed.phase(runtime, "erase"):
                erase.run_due(runtime)
    return True


def _run(runtime: Runtime, held: leases.Held, claimed: Claimed, *, trains: bool) -> bool:
    outcome = "interrupted"
    try:
        reach("batch.claimed")
        outcome, goes_on = _attempt(runtime, held, claimed, trains=trains)
    finally:
        observed.ended(runtime, outcome)
    if goes_on and trains:
        retrains.destroy_left(runtime, claimed.batch_id)
    return goes_on


def _attempt(
    runtime: Runtime, held: leases.Held, claimed: Claimed, *, trains: bool
) -> tuple[str, bool]:
    """Return how the run ended, and whether this worker goes on with what follows the batch."""
    try:
        if not computing.unlearn(runtime, held, claimed, trains=trains):
            return "left_to_training", False
    except leases.LeaseLost:
        log.warning("batch %s has a new holder; its work here is dropped", claimed.batch_id)
        return "lease_lost", False
    except Stopping as stopping:
        _hand_back(runtime, held, claimed, because=str(stopping))
        return "handed_back", False
    except versions.ProductionMoved:
        _hand_back(runtime, held, claimed, because="production was moved by hand")
        return "handed_back", True
    except (BatchFailed, ServiceError, OSError) as error:
        _fail(runtime, held, claimed, error)
        return "failed", True
    return "recorded", True


@transactions.repeated
def _hand_back(runtime: Runtime, held: leases.Held, claimed: Claimed, *, because: str) -> None:
    try:
        with runtime.session() as session:
            execution.hand_back(
                session,
                session.get_one(Batch, claimed.batch_id),
                held=held,
                because=because,
                now=runtime.now(),
            )
    except leases.LeaseLost:
        log.warning("batch %s has a new holder meanwhile", claimed.batch_id)


@transactions.repeated
def _fail(runtime: Runtime, held: leases.Held, claimed: Claimed, error: Exception) -> None:
    log.error("batch %s failed: %s", claimed.batch_id, error)
    try:
        with runtime.session() as session:
            execution.fail(
                session,
                session.get_one(Batch, claimed.batch_id),
                held=held,
                error=text_of(error)[:1000],
                retry=runtime.retry,
                now=runtime.now(),
                lasting=isinstance(error, BatchFailed) and error.lasting,
                hopeless=isinstance(error, BatchFailed) and error.hopeless,
            )
    except leases.LeaseLost:
        log.warning("batch %s has a new holder meanwhile", claimed.batch_id)
