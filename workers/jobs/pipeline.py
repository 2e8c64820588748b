"""Unlearning a batch, from the claim to the promoted version. Start reading here.

1. claim: the model's lease is taken; the oldest due erasures become a batch.
2. compute: one request to the compute process: load, update, store, verify. A batch whose next
   method trains is handed to the trainings lane first, so that no other model's batch waits for it.
3. record: one transaction registers the version, stores what was measured, and promotes or
   rejects it. A rejected version is followed by the policy's next method; an exact one that lost
   accuracy may be held (``holds``).
4. erase: raw rows that no model needs any more are overwritten, and finished requests completed.

No transaction is open while something computes. If a worker dies anywhere before the end of step 3,
the old version stays live and another worker takes the batch over; files that it stored are orphans
until a sweep. Every step may be repeated.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

import workers
from service.errors import ServiceError
from service.ledger.batches import claims, execution, holds, leases
from service.ledger.database import transactions
from service.ledger.database.states import VersionStatus
from service.ledger.database.tables import Batch, Model, Version
from service.ledger.registry import methods, versions
from service.ledger.registry.policy import MethodChoice, Policy
from service.ledger.reports import disclosure, shown_sets, verifications
from service.ledger.training import consolidation
from service.messages.failures import MACHINE_FAULTS, FailureKind
from service.messages.parts import Made
from service.messages.unlearn import UNLEARN, Answer, Request
from workers.compute.process import ComputeFailed, Stopping
from workers.fault_points import reach
from workers.jobs import attempts, caches, erase, plans, retrains
from workers.jobs.attempts import Attempt
from workers.runtime import Runtime

log = logging.getLogger(__name__)

#: Errors of a method that mean it does not apply: the policy's next method is tried, without a
#: retry. Damaged internal state is among them: a retrain needs none.
METHOD_REFUSALS = frozenset(
    {
        FailureKind.NEEDS_RETRAIN,
        FailureKind.UNUSABLE_DIRECTION,
        FailureKind.WRONG_OPTIONS,
        FailureKind.UNKNOWN_NAME,
        FailureKind.DIVERGED,
        FailureKind.CORRUPT_CHECKPOINT,
        FailureKind.NOT_STORED,
    }
)

_LONGEST_REFUSAL = 500


#: Refusals that do not depend on weights or random numbers: every attempt ends the same way.
LASTING_REFUSALS = frozenset(
    {FailureKind.NEEDS_RETRAIN, FailureKind.WRONG_OPTIONS, FailureKind.UNKNOWN_NAME}
)

#: Errors that no other method, attempt or choice of requests changes: no row would be retained.
HOPELESS = frozenset({FailureKind.NOTHING_RETAINED})


class BatchFailed(Exception):
    """No method of the policy gave a version that may be promoted.

    ``lasting``: another attempt would end the same way. ``hopeless``: so would fewer requests,
    because no row is retained, or because the loss of the model's training, the last resort, is
    no longer finite.
    """

    def __init__(self, reason: str, *, lasting: bool = False, hopeless: bool = False) -> None:
        super().__init__(reason)
        self.lasting, self.hopeless = lasting, hopeless


@dataclass(frozen=True)
class Claimed:
    """A batch with everything that its computation needs."""

    batch_id: str
    #: For the first of the methods.
    request: Request
    #: Still to be tried, in order.
    methods: list[Attempt]
    promote_without_power: bool
    #: Tried before: ``[{"choice": …, "refusal": …, "lasting": …}]``.
    tried: list[dict[str, Any]] = field(default_factory=list)


def run_due(runtime: Runtime) -> bool:
    """Unlearn what is due on any model, then erase; True when something was done."""
    done, going_on = False, True
    while going_on:
        with runtime.session() as session:
            due = claims.due(session, now=runtime.now())
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
            due = claims.due_models(session, now=runtime.now())
        going_on = _run_models(runtime, due, trains=False)
        done |= going_on
    # A batch that was run has erased already what could be erased after it.
    return done or erase.run_due(runtime)


def run_trainings_due(runtime: Runtime) -> bool:
    """Run the batches that were handed to the trainings lane."""
    with runtime.session() as session:
        due = claims.training_models(session)
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
    with begun(runtime, model_id, trains=trains) as found:
        if found is None or not _run(runtime, *found, trains=trains):
            return False
        erase.run_due(runtime)
    return True


@contextmanager
def begun(
    runtime: Runtime, model_id: int, *, trains: bool
) -> Iterator[tuple[leases.Held, Claimed] | None]:
    """Claim the model's next due batch and hold the lease for the block; None if there is none."""
    found = _begin(runtime, model_id, trains=trains)
    if found is None:
        yield None
        return
    with runtime.giving_back(found[0]):
        yield found


def _run(runtime: Runtime, held: leases.Held, claimed: Claimed, *, trains: bool) -> bool:
    reach("batch.claimed")
    try:
        if not _unlearn(runtime, held, claimed, trains=trains):
            return False
    except leases.LeaseLost:
        log.warning("batch %s has a new holder; its work here is dropped", claimed.batch_id)
        return False
    except Stopping as stopping:
        _hand_back(runtime, held, claimed, because=str(stopping))
        return False
    except versions.ProductionMoved:
        _hand_back(runtime, held, claimed, because="production was moved by hand")
    except (BatchFailed, ServiceError, OSError) as error:
        _fail(runtime, held, claimed, error)
    if trains:
        retrains.destroy_left(runtime, claimed.batch_id)
    return True


@transactions.repeated
def _begin(runtime: Runtime, model_id: int, *, trains: bool) -> tuple[leases.Held, Claimed] | None:
    """Take the model's lease and claim in one transaction; on None the lease stays free."""
    with runtime.session() as session:
        held = runtime.acquire(session, leases.of_model(model_id))
        if held is None:
            return None
        claimed = _claim(session, runtime, model_id, held, trains=trains)
        if claimed is None:
            leases.release(session, held, now=runtime.now())
            return None
        return held, claimed


def _claim(
    session: Session, runtime: Runtime, model_id: int, held: leases.Held, *, trains: bool
) -> Claimed | None:
    model = session.get_one(Model, model_id)
    batch = claims.claim(session, model, held=held, now=runtime.now(), trains=trains)
    if batch is None:
        return None
    policy = Policy.model_validate(model.policy)
    if batch.attempts > runtime.retry.max_attempts:
        # The workers that ran it died repeatedly, which counts as a failure of the batch.
        execution.fail(
            session,
            batch,
            held=held,
            error="the worker died each time it ran this batch",
            retry=runtime.retry,
            now=runtime.now(),
        )
        return None
    known = methods.announced(session)
    chosen = attempts.choices(known, batch, policy)
    request = plans.for_batch(session, runtime.store, batch, chosen[0], knows=runtime.compute.knows)
    before = [entry["choice"] for entry in batch.tried]
    left = [choice for choice in chosen if choice.model_dump() not in before]
    return Claimed(
        batch_id=batch.id,
        request=request,
        methods=attempts.of(known, request, left),
        tried=batch.tried,
        promote_without_power=policy.promote_without_power,
    )


def _unlearn(runtime: Runtime, held: leases.Held, claimed: Claimed, *, trains: bool) -> bool:
    """Try the methods in turn until one gives a version that is promoted.

    Return False when the next one trains and this lane does not: the trainings lane continues.
    """
    if not claimed.request.forget:
        _complete_without_update(runtime, held, claimed)
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
        refusals = [entry["refusal"] for entry in tried]
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
            if failed.kind in HOPELESS:
                raise BatchFailed(failed.detail, hopeless=True) from failed
            if not _asks_the_next(runtime, failed, attempt, waiting, claimed):
                raise
            if attempt.trains:
                retrains.end(runtime, claimed.batch_id)
            hopeless |= failed.kind is FailureKind.DIVERGED
            lasting = failed.kind in LASTING_REFUSALS
            tried.append(_tried(choice, _refusal(failed, choice), lasting=lasting))
            log.warning("batch %s continues without %s", claimed.batch_id, tried[-1]["refusal"])
            continue
        reach("batch.computed")
        if refusals:
            answer = replace(answer, notes=answer.notes | {"passed_over": refusals})
        promoted, why = _record(runtime, held, claimed, choice, request, answer)
        reach("batch.recorded")
        if promoted:
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
            request = replace(request, told=plans.everything(session, request.told))
        answer = ask()
    runtime.compute.knows |= plans.known(request.told)
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
    if failed.kind in METHOD_REFUSALS:
        return True
    if attempt.exact and not any(other.exact for other in waiting):
        return False
    if failed.kind not in MACHINE_FAULTS:
        return True
    with runtime.session() as session:
        batch = session.get_one(Batch, claimed.batch_id)
        return execution.is_last_attempt(session, batch, retry=runtime.retry)


def _refusal(failed: ComputeFailed, choice: MethodChoice) -> str:
    """Return why a method was refused; an unexpected error begins with its class name."""
    kind = "" if failed.kind in METHOD_REFUSALS else f"{failed.name}: "
    return f"{choice.method}: {kind}{failed.detail}"[:_LONGEST_REFUSAL]


@transactions.repeated
def _record(
    runtime: Runtime,
    held: leases.Held,
    claimed: Claimed,
    choice: MethodChoice,
    request: Request,
    answer: Answer,
) -> tuple[bool, str]:
    """Register, judge, and promote, hold or reject, in one transaction.

    Return whether the batch needs no other method, and if it does, why.
    """
    verdict = answer.verification["verdict"]
    allowed, mark = _may_go_live(answer, claimed)
    with runtime.session() as session:
        batch = execution.running(session, claimed.batch_id, held=held)
        model = session.get_one(Model, batch.model_id)
        base = session.get_one(Version, batch.base_version_id)
        versions.lock(session, model)
        shown_sets.hold(session, model.dataset_id)
        execution.lock(session, batch, held=held)
        version = versions.register(
            session,
            model,
            origin="retrained" if answer.is_anchor else "unlearned",
            parent=base,
            anchor_id=None if answer.is_anchor else base.anchor_id,
            data_revision=(request.data_revision if answer.is_anchor else base.data_revision),
            record_list_id=base.record_list_id,  # a retrain uses the same rows, minus the forgotten
            digest=answer.checkpoint.digest,
            size_bytes=answer.checkpoint.size_bytes,
            batch_id=batch.id,
            method=choice.method,
            options=choice.options,
            seed=request.seed,
            code_version=workers.code_version(),
            notes=answer.notes | {"retrain_because": answer.retrain_because},
            timings=answer.timings,
            mark=mark if allowed else None,
            now=runtime.now(),
            actor=runtime.actor,
        )
        attach(session, version, answer.artifacts, now=runtime.now())
        verifications.store(
            session,
            model,
            version,
            measured=answer.verification,
            data_revision=request.data_revision,
            actor=runtime.actor,
            now=runtime.now(),
        )
        if not allowed:
            versions.reject(session, model, version, verdict=verdict, actor=runtime.actor)
            return False, _reasons(answer.verification)
        if mark == holds.MARK:
            until = holds.until(session, batch, Policy.model_validate(model.policy))
            if until is not None and until > runtime.now():
                holds.hold(session, model, batch, version, until=until, held=held)
                reach("batch.recording")
                log.info("batch %s is held with version %d", batch.id, version.number)
                return True, ""
        execution.complete(session, batch, version, held=held, now=runtime.now())
        versions.promote(
            session,
            model,
            version,
            expected_production=_expected_production(model, base),
            reason="unlearned",
            actor=runtime.actor,
            now=runtime.now(),
        )
        _consolidate(session, runtime, model, version, answer.retrain_because)
        reach("batch.recording")
    log.info("batch %s is live as version %d (%s)", batch.id, version.number, verdict)
    return True, ""


def _may_go_live(answer: Answer, claimed: Claimed) -> tuple[bool, str | None]:
    """Return whether the version may be promoted, and the warning recorded with it if so.

    A version trained on the retained rows alone is the last resort: the deletion is due, it needs
    no statistics to show that the rows are gone, and no method gives a better one. Lost accuracy
    alone does not stop it from going live in time (``holds``), but a
    failed gate of any other concern does.
    """
    found = answer.verification
    if found["verdict"] == "no_power":
        return claimed.promote_without_power or answer.is_anchor, "no_power"
    if found["verdict"] == "failed" and answer.is_anchor:
        failed = {gate["concern"] for gate in found["gates"] if gate["outcome"] == "failed"}
        return failed == {"utility"}, holds.MARK
    return found["verdict"] == "passed", None


@transactions.repeated
def _complete_without_update(runtime: Runtime, held: leases.Held, claimed: Claimed) -> None:
    """Complete a batch without a new version: the base was trained on none of its records."""
    with runtime.session() as session:
        batch = session.get_one(Batch, claimed.batch_id)
        base = session.get_one(Version, batch.base_version_id)
        leases.hold(session, held)
        model = versions.require_production(session, base)
        execution.complete(session, batch, base, held=held, now=runtime.now())
        # An older version to which production could be moved back may hold the records.
        versions.retire_tainted(session, model, keep=base, actor=runtime.actor, now=runtime.now())


def attach(session: Session, version: Version, artifacts: list[Made], *, now: datetime) -> None:
    """Register stored internal state; an anchor's cache belongs to the anchor."""
    of_anchor = [_artifact(made) for made in artifacts if made.of_anchor]
    if of_anchor:
        versions.attach(session, session.get_one(Version, version.anchor_id), of_anchor, now=now)
    of_version = [_artifact(made) for made in artifacts if not made.of_anchor]
    versions.attach(session, version, of_version, now=now)


def _artifact(made: Made) -> dict[str, Any]:
    return {
        "kind": made.kind,
        "digest": made.digest,
        "size_bytes": made.size_bytes,
        "notes": made.notes,
    }


def _expected_production(model: Model, base: Version) -> int | None:
    """Return the id that the alias must still have: the base's; any if an anchor catches up."""
    return model.production_id if base.status == VersionStatus.CANDIDATE else base.id


def _consolidate(
    session: Session, runtime: Runtime, model: Model, version: Version, because: list[str]
) -> None:
    """Queue a retrain if the method, the verification or the policy's drift budget asks for it."""
    now = runtime.now()
    because = because or consolidation.reasons(session, model, version, now=now)
    run = consolidation.queue(session, model, because=because, actor=runtime.actor, now=now)
    if run is not None:
        log.info("model %s will be retrained: %s", model.name, "; ".join(because))


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
                error=str(error)[:1000],
                retry=runtime.retry,
                now=runtime.now(),
                lasting=isinstance(error, BatchFailed) and error.lasting,
                hopeless=isinstance(error, BatchFailed) and error.hopeless,
            )
    except leases.LeaseLost:
        log.warning("batch %s has a new holder meanwhile", claimed.batch_id)


def _time_limit(runtime: Runtime, attempt: Attempt) -> float:
    if attempt.in_trainings:
        return runtime.settings.training_timeout_seconds
    return runtime.settings.batch_timeout_seconds


def _reasons(verification: dict[str, Any]) -> str:
    # They become the batch's error, which clients without the audit scope can read.
    found = disclosure.measured(verification, None)
    return f"{found['verdict']}: {'; '.join(found['reasons'])}"
