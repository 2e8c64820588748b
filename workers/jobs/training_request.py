"""The request for a training run: which rows, from which state, compared with which version.

The run's rows are fixed when it starts: every training row of the dataset that is not excluded at
that revision, among those that it had at the revision given for the run, if one was.
"""

from __future__ import annotations

from sqlalchemy.orm import Session

from service.ledger.batches import leases
from service.ledger.database import locks, transactions
from service.ledger.database.tables import Model, TrainingRun, Version
from service.ledger.registry.policy import Policy
from service.ledger.reports import shown_sets
from service.ledger.training import asked, run_states, runs
from service.messages import train as messages
from workers.jobs import kept_states, plans, row_sets
from workers.runtime import Runtime


@transactions.repeated
def start(runtime: Runtime, run_id: str, held: leases.Held) -> messages.Request | None:
    """Begin an attempt; return its request, or None when the run no longer waits."""
    with runtime.session() as session:
        outdated = session.get_one(TrainingRun, run_id).state_digest
        request = _begun(runtime, session, run_id, held)
    if outdated is not None and request is not None and request.resume != outdated:
        kept_states.destroy(runtime, outdated)
    return request


def _begun(
    runtime: Runtime, session: Session, run_id: str, held: leases.Held
) -> messages.Request | None:
    leases.hold(session, held)
    run = session.get_one(TrainingRun, run_id)
    if run.status not in runs.ACTIVE:
        return None
    if run.attempts >= runtime.retry.max_attempts:
        error = run.error or "the worker died each time it trained"
        runs.fail(session, run, error=error, actor=runtime.actor, now=runtime.now())
        return None
    model = session.get_one(Model, run.model_id)
    # Locked, so that no row is excluded between reading the revision and the list of rows, and no
    # request is recorded that misses this training.
    dataset = locks.dataset(session, model.dataset_id, locks.Hold.PUBLICATION)
    resume = run.state_digest if run_states.can_resume(session, run) else None
    revision = dataset.revision
    if resume is not None and run.data_revision is not None:
        revision = run.data_revision
    shown_sets.hold(session, dataset.id)
    rows = asked.rows(session, dataset, run, begun=revision)
    runs.start(
        session,
        run,
        data_revision=revision,
        resume=resume is not None,
        actor=runtime.actor,
        now=runtime.now(),
    )
    # An epoch's losses and accuracies are those of whole sets.
    read = dict.fromkeys(("retain", "calibration"), shown_sets.Sample())
    shown = shown_sets.show(session, dataset.id, None, rows, revision, read)
    runs.compared(session, run, {"revision": revision, "rows": shown})
    policy = Policy.model_validate(model.policy)
    return messages.Request(
        data=plans.view(
            session,
            runtime.store,
            dataset,
            rows=rows,
            excluded=row_sets.excluded_rows(session, dataset.id, revision=revision),
        ),
        data_revision=revision,
        model=plans.model(model),
        run=run.id,
        seed=run.seed,
        resume=resume,
        keep_seconds=runtime.settings.training_state_seconds,
        update_log_bytes=policy.update_log_megabytes << 20 if policy.keep_update_log else 0,
        approximate=_approximate(session, model),
        gates=policy.gates,
    )


def _approximate(session: Session, model: Model) -> messages.Approximate | None:
    """Return the live approximate version, to compare with the exact one that replaces it."""
    if model.production_id is None:
        return None
    live = session.get_one(Version, model.production_id)
    if live.origin != "unlearned":
        return None
    return messages.Approximate(
        digest=live.digest, number=live.number, trained_on=row_sets.trained_on(session, live)
    )
