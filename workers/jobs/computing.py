"""The computation of a batch: the policy's methods in turn, until a version may go live."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from service.ledger.batches import execution, leases
from service.ledger.database.tables import Batch
from service.ledger.registry import methods
from service.ledger.registry.policy import MethodChoice
from service.messages.failures import MACHINE_FAULTS, FailureKind
from service.messages.unlearn import UNLEARN, Answer, Request
from workers.compute.process import ComputeFailed, Stopping
from workers.fault_points import reach
from workers.jobs import (
    attempts,
    caches,
    observed,
    plans,
    recording,
    refusals,
    retrains,
    row_sets,
)
from workers.jobs.attempts import Attempt
from workers.jobs.claiming import Claimed
from workers.runtime import Runtime

log = logging.getLogger(__name__)


class BatchFailed(Exception):
    """No method of the policy gave a version that may be promoted.

    ``lasting``: another attempt would end the same way. ``hopeless``: so would fewer requests,
    because no row is retained, or because the loss of the model's training, the last resort, is
    no longer finite.
    """

    def __init__(self, reason: str, *, lasting: bool = False, hopeless: bool = False) -> None:
        super().__init__(reason)
        self.lasting, self.hopeless = lasting, hopeless


def unlearn(runtime: Runtime, held: leases.Held, claimed: Claimed, *, trains: bool) -> bool:
    """Try the methods in turn until one gives a version that is promoted.

    Return False when the next one trains and this lane does not: the trainings lane continues.
    """
    if not claimed.request.forget:
        recording.complete_without_update(runtime, held, claimed)
        return True
    tried = list(claimed.tried)
    hopeless = False
    waiting = list(claimed.methods)
    while waiting:
        attempt = waiting.pop(0)
        choice = attempt.choice
        if attempt.in_trainings and not trains:
            _leave_to_training(runtime, held, claimed, tried)
            return False
        passed_over = [entry["refusal"] for entry in tried]
        request = replace(claimed.request, choice=plans.method(choice))
        if attempt.trains:
            request = retrains.begin(runtime, held, claimed.batch_id, request)
        reach("batch.computing")
        try:
            answer = _compute(
                runtime,
                held,
                claimed.batch_id,
                request,
                timeout_seconds=_time_limit(runtime, attempt),
            )
        except Stopping:
            if not trains:
                raise
            # Methods tried so far are recorded; an interrupted training resumes in the other lane.
            _leave_to_training(runtime, held, claimed, tried)
            return False
        except ComputeFailed as failed:
            if failed.kind is FailureKind.DAMAGED_CACHE:
                # The same method again; its anchor is now prepared first.
                claimed = _without_cache(runtime, held, claimed)
                waiting = claimed.methods[-len(waiting) - 1 :]
                continue
            if failed.kind in refusals.HOPELESS:
                raise BatchFailed(failed.detail, hopeless=True) from failed
            if not _asks_the_next(runtime, failed, attempt, waiting, claimed):
                raise
            if attempt.trains:
                retrains.end(runtime, claimed.batch_id)
            hopeless |= failed.kind is FailureKind.DIVERGED
            lasting = failed.kind in refusals.LASTING_REFUSALS
            tried.append(_tried(choice, refusals.reason(failed, choice), lasting=lasting))
            log.warning("batch %s continues without %s", claimed.batch_id, tried[-1]["refusal"])
            continue
        reach("batch.computed")
        if passed_over:
            answer = replace(answer, notes=answer.notes | {"passed_over": passed_over})
        following = waiting[0].choice.method if waiting else None
        observed.computed(runtime, choice.method, answer)
        with observed.phase(runtime, "record"):
            done, why = recording.record(
                runtime, held, claimed, choice, request, answer, following=following
            )
        reach("batch.recorded")
        if done:
            return True
        if attempt.trains:
            retrains.end(runtime, claimed.batch_id)
        tried.append(_tried(choice, f"{choice.method}: {why}"))
    refused = "; ".join(entry["refusal"] for entry in tried)
    raise BatchFailed(
        f"no method gave a version that may go live; {refused}",
        lasting=all(entry.get("lasting", False) for entry in tried),
        hopeless=hopeless,
    )


def _without_cache(runtime: Runtime, held: leases.Held, claimed: Claimed) -> Claimed:
    """Destroy the anchor's damaged cache; return the batch as if the anchor never had one."""
    caches.destroy_damaged(runtime, held, claimed.batch_id)
    anchor = replace(claimed.request.anchor, cache=None)
    request = replace(claimed.request, anchor=anchor)
    with runtime.session() as session:
        known = methods.announced(session)
    again = attempts.of(known, request, [one.choice for one in claimed.methods])
    return replace(claimed, request=request, methods=again)


def _compute(
    runtime: Runtime,
    held: leases.Held,
    batch_id: str,
    request: Request,
    *,
    timeout_seconds: float,
) -> Answer:
    """Call the compute process; if it lacks what the request relies on, send everything."""
    keeping = retrains.Keeping(runtime, held, batch_id, request)

    def ask() -> Answer:
        return runtime.ask(
            UNLEARN,
            request,
            held=held,
            timeout_seconds=timeout_seconds,
            progress=keeping.seen,
        )

    try:
        answer = ask()
    except ComputeFailed as failed:
        if failed.kind is not FailureKind.NOT_KNOWN:
            raise
        # The process was restarted or has dropped what it was sent, as it may at any time.
        with runtime.session() as session:
            request = replace(request, row_sets=row_sets.everything(session, request.row_sets))
        answer = ask()
    runtime.compute.knows |= row_sets.known(request.row_sets)
    return answer


def _tried(choice: MethodChoice, refusal: str, *, lasting: bool = False) -> dict[str, Any]:
    return {"choice": choice.model_dump(), "refusal": refusal, "lasting": lasting}


def _leave_to_training(
    runtime: Runtime, held: leases.Held, claimed: Claimed, tried: list[dict[str, Any]]
) -> None:
    with runtime.session() as session:
        batch = session.get_one(Batch, claimed.batch_id)
        execution.leave_to_training(session, batch, tried=tried, held=held)
    reach("batch.left_to_training")
    log.info("batch %s waits for the trainings lane", claimed.batch_id)


def _asks_the_next(
    runtime: Runtime,
    failed: ComputeFailed,
    attempt: Attempt,
    waiting: list[Attempt],
    claimed: Claimed,
) -> bool:
    """Return whether the policy's next method replaces one that failed.

    An unexpected error also means that the method does not suit this network or these rows, and
    would recur at each attempt. An exact method's unexpected error is raised, unless another exact
    method follows: no other kind can replace it.
    """
    if failed.kind in refusals.METHOD_REFUSALS:
        return True
    if attempt.exact and not any(other.exact for other in waiting):
        return False
    if failed.kind not in MACHINE_FAULTS:
        return True
    with runtime.session() as session:
        batch = session.get_one(Batch, claimed.batch_id)
        return execution.is_last_attempt(session, batch, retry=runtime.retry)


def _time_limit(runtime: Runtime, attempt: Attempt) -> float:
    if attempt.in_trainings:
        return runtime.settings.training_timeout_seconds
    return runtime.settings.batch_timeout_seconds
