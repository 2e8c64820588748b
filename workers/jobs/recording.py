"""What a batch computed, recorded: register and judge the version; promote, hold or reject it."""

from __future__ import annotations

import logging
from typing import Any

from sqlalchemy.orm import Session

import workers
from service.ledger.batches import execution, holds, leases
from service.ledger.database import transactions
from service.ledger.database.states import VersionStatus
from service.ledger.database.tables import Batch, Model, Version
from service.ledger.registry import versions
from service.ledger.registry.policy import MethodChoice, Policy
from service.ledger.reports import disclosure, verifications
from service.ledger.training import consolidation
from service.messages.unlearn import Answer, Request
from workers.fault_points import reach
from workers.jobs import artifacts
from workers.jobs.claiming import Claimed
from workers.runtime import Runtime

log = logging.getLogger(__name__)


@transactions.repeated
def record(
    runtime: Runtime,
    held: leases.Held,
    claimed: Claimed,
    choice: MethodChoice,
    request: Request,
    answer: Answer,
    *,
    following: str | None,
) -> tuple[bool, str]:
    """Register, judge, and promote, hold or reject, in one transaction.

    ``following`` is the method that a rejected version is followed by, None if there is none.
    Return whether the batch needs no other method, and if it does, why.
    """
    verdict = answer.verification["verdict"]
    allowed, mark = may_go_live(answer, claimed.policy, last=following is None)
    with runtime.session() as session:
        # Before the model: what is shown has a key to the dataset.
        batch = execution.running(session, claimed.batch_id, held=held, hold=claimed.hold)
        model = session.get_one(Model, batch.model_id)
        base = session.get_one(Version, batch.base_version_id)
        versions.lock(session, model)
        artifacts.require(
            session,
            runtime.store,
            answer.checkpoint,
            answer.artifacts,
            sets_of=model.dataset_id,
        )
        if mark in holds.MARKS:
            # It is said in the requests that the version is held, or what follows it.
            execution.lock_requests(session, batch)
        execution.lock(session, batch, held=held)
        version = versions.register(
            session,
            model,
            origin="retrained" if answer.is_anchor else "unlearned",
            parent=base,
            anchor_id=None if answer.is_anchor else base.anchor_id,
            data_revision=(request.data_revision if answer.is_anchor else base.data_revision),
            data_rows=base.data_rows,
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
        artifacts.attach(session, version, answer.artifacts, now=runtime.now())
        stored = verifications.store(
            session,
            model,
            version,
            measured=answer.verification,
            data_revision=request.data_revision,
            actor=runtime.actor,
            now=runtime.now(),
            forgotten=request.forget,
        )
        if not allowed:
            if mark == holds.MEMORISED and following is not None:
                holds.say_next(session, batch, version, method=following)
            versions.reject(session, model, version, verdict=verdict, actor=runtime.actor)
            return False, _reasons(answer.verification, stored.set_changes)
        if mark in holds.MARKS:
            policy = Policy.model_validate(model.policy)
            until = holds.until(session, batch, policy, mark=mark)
            if until is not None and until > runtime.now():
                holds.hold(session, model, batch, version, until=until, held=held, mark=mark)
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


def may_go_live(answer: Answer, policy: Policy, *, last: bool) -> tuple[bool, str | None]:
    """Return whether the version may be promoted, and the warning recorded with it if so.

    ``last``: no other method follows. A version without power of which memorised records may be
    left is not promoted while the policy has another method; the last one may be held (``holds``).

    A version trained on the retained rows alone is the last resort: the deletion is due, it needs
    no statistics to show that the rows are gone, and no method gives a better one. Lost accuracy
    alone does not stop it from going live in time (``holds``), but a
    failed gate of any other concern does.
    """
    found = answer.verification
    if found["verdict"] == "no_power":
        if answer.is_anchor:
            return True, "no_power"
        if not policy.promote_without_power:
            return False, "no_power"
        if not found.get("memorised", {}).get("left") or policy.on_memorised == "promote":
            return True, "no_power"
        return last or policy.on_memorised == "hold", holds.MEMORISED
    if found["verdict"] == "failed" and answer.is_anchor:
        failed = {gate["concern"] for gate in found["gates"] if gate["outcome"] == "failed"}
        return failed == {"utility"}, holds.ACCURACY
    return found["verdict"] == "passed", None


@transactions.repeated
def complete_without_update(runtime: Runtime, held: leases.Held, claimed: Claimed) -> None:
    """Complete a batch without a new version: the base was trained on none of its records."""
    with runtime.session() as session:
        batch = session.get_one(Batch, claimed.batch_id)
        base = session.get_one(Version, batch.base_version_id)
        leases.hold(session, held)
        model = versions.require_production(session, base)
        execution.complete(session, batch, base, held=held, now=runtime.now())
        # An older version to which production could be moved back may hold the records.
        versions.retire_containing(
            session, model, keep=base, actor=runtime.actor, now=runtime.now()
        )


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


def _reasons(verification: dict[str, Any], set_changes: dict[str, Any] | None) -> str:
    # They become the batch's error, which clients without the audit scope can read: no figure may
    # stand there that is withheld in the verification.
    found = disclosure.measured(verification, set_changes)
    return f"{found['verdict']}: {'; '.join(found['reasons'])}"
