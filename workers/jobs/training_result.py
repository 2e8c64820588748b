"""The result of a training run: register its version, and promote it if it owes nothing.

Deletions that are completed while it trains are owed by the new anchor, which stays a candidate
until a batch has applied them (``claims.claim``).
"""

from __future__ import annotations

import logging
from dataclasses import asdict

import workers
from service.ledger.batches import approvals, leases
from service.ledger.database import locks, transactions
from service.ledger.database.tables import Dataset, Model, TrainingRun, Version
from service.ledger.obligations import shares
from service.ledger.registry import forgotten, versions
from service.ledger.registry.policy import Policy
from service.ledger.reports import comparisons, verifications
from service.ledger.training import asked, runs
from service.messages import train as messages
from workers.jobs import artifacts
from workers.runtime import Runtime

log = logging.getLogger(__name__)


@transactions.repeated
def record(
    runtime: Runtime,
    run_id: str,
    held: leases.Held,
    request: messages.Request,
    answer: messages.Answer,
) -> None:
    """Register the version; promote it unless it owes deletions or is held for lost accuracy."""
    with _model_lease(runtime, run_id, held) as of_model, runtime.session() as session:
        leases.hold(session, held)
        leases.hold(session, of_model)
        run = session.get_one(TrainingRun, run_id)
        model = session.get_one(Model, run.model_id)
        versions.lock_to_measure(session, model)
        artifacts.require(
            session,
            runtime.store,
            answer.checkpoint,
            answer.artifacts,
            sets_of=model.dataset_id,
        )
        locks.training_run(session, run.id)
        parent = None if model.production_id is None else session.get(Version, model.production_id)
        dataset = session.get_one(Dataset, model.dataset_id)
        version = versions.register(
            session,
            model,
            origin="trained",
            parent=parent,
            data_revision=request.data_revision,
            data_rows=asked.rows(session, dataset, run, begun=request.data_revision),
            digest=answer.checkpoint.digest,
            size_bytes=answer.checkpoint.size_bytes,
            training_run_id=run.id,
            seed=run.seed,
            code_version=workers.code_version(),
            notes=answer.notes,
            timings=answer.timings,
            now=runtime.now(),
            actor=runtime.actor,
        )
        artifacts.attach(session, version, answer.artifacts, now=runtime.now())
        verification = verifications.store(
            session,
            model,
            version,
            measured=answer.verification,
            data_revision=request.data_revision,
            actor=runtime.actor,
            now=runtime.now(),
        )
        if answer.comparison is not None:
            comparisons.store(
                session,
                model,
                version,
                measured=answer.comparison,
                verification=verification,
                actor=runtime.actor,
            )
        runs.draw(session, run.id, asdict(answer.curve))
        runs.complete(
            session,
            run,
            version,
            actor=runtime.actor,
            now=runtime.now(),
            epochs=len(answer.curve.epochs) or None,
        )
        if model.production_id is None:
            # Open requests are applied once the version is live.
            revision = version.data_revision
            shares.join(session, model, data_revision=revision, now=runtime.now())
        owes = forgotten.is_in(session, model, version)
        if answer.accuracy_drop and _is_to_wait(model, run):
            approvals.set_aside(
                session, model, version, owes=owes, actor=runtime.actor, now=runtime.now()
            )
            return
        if owes:
            log.info("version %d of %s owes deletions and catches up", version.number, model.name)
            return
        versions.promote(
            session,
            model,
            version,
            expected_production=model.production_id,
            reason=f"training run: {run.reason}",
            actor=runtime.actor,
            now=runtime.now(),
        )


def _is_to_wait(model: Model, run: TrainingRun) -> bool:
    """Return whether a version that lost accuracy is held: only if the training was automatic."""
    policy = Policy.model_validate(model.policy)
    return run.reason == "consolidate" and policy.on_accuracy_drop == "hold"


class _model_lease:  # noqa: N801  # used as a context manager, reads like the function it is
    """Wait for the model's lease, so that the anchor never changes under a running batch."""

    def __init__(self, runtime: Runtime, run_id: str, held: leases.Held) -> None:
        self._runtime, self._run_id, self._held = runtime, run_id, held
        self._model: leases.Held | None = None

    def __enter__(self) -> leases.Held:
        runtime = self._runtime
        with runtime.session() as session:
            model_id = session.get_one(TrainingRun, self._run_id).model_id
        while True:
            with runtime.session() as session:
                seconds = runtime.settings.lease_seconds
                leases.renew(session, self._held, seconds=seconds, now=runtime.now())
                self._model = leases.acquire(
                    session,
                    leases.of_model(model_id),
                    owner=runtime.owner,
                    seconds=seconds,
                    now=runtime.now(),
                )
            if self._model is not None:
                return self._model
            runtime.heed_stop()
            runtime.stop.wait(min(0.2, runtime.settings.lease_seconds / 3))

    def __exit__(self, *_error: object) -> None:
        assert self._model is not None
        with self._runtime.session() as session:
            leases.release(session, self._model, now=self._runtime.now())
