"""Run a training run and register its version.

The run's rows are fixed when it starts: every training row of the dataset that is not excluded at
that revision. Deletions that are completed while it trains are owed by the new anchor, which stays
a candidate until a batch has applied them (``claims.claim``); an anchor that owes nothing is
promoted at once.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

import workers
from service.errors import ServiceError
from service.ledger.batches import approvals, leases, queue
from service.ledger.database import locks, retries, transactions
from service.ledger.database.states import IllegalMove, RunStatus
from service.ledger.database.tables import Model, TrainingRun, Version
from service.ledger.obligations import shares
from service.ledger.registry import segments, versions
from service.ledger.registry.policy import Policy
from service.ledger.reports import comparisons, shown_sets, verifications
from service.ledger.training import consolidation, runs
from service.messages import train as messages
from service.messages.failures import MACHINE_FAULTS
from service.messages.parts import Kept
from workers.compute.process import ComputeFailed, Stopping
from workers.fault_points import reach
from workers.jobs import artifacts, kept_states, plans, refusals, row_sets
from workers.runtime import Runtime

log = logging.getLogger(__name__)

#: Seconds between two checks whether a training was cancelled or a batch waits for its lane.
WATCH_SECONDS = 1.0


class Ended(IllegalMove):
    """The run was cancelled, or its model withdrawn, while it trained."""


class Yielding(Exception):
    """A batch that must be trained takes precedence over a training run."""


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
    request = _start(runtime, run_id, held)
    if request is None:
        return False
    reach("train.claimed")
    watch = _Watch(runtime, run_id, held)
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
        _record(runtime, run_id, held, request, answer)
        reach("train.recorded")
    except leases.LeaseLost:
        log.warning("training run %s has a new holder; its work here is dropped", run_id)
        with runtime.session() as session:
            if not runs.has_ended(session, run_id):
                return True  # the states are the new holder's to destroy, who may just keep one
    except IllegalMove as ended:  # cancelled, or its model withdrawn
        log.info("training run %s: %s", run_id, ended)
    except (Stopping, Yielding) as stopping:
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
def _start(runtime: Runtime, run_id: str, held: leases.Held) -> messages.Request | None:
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
    resume = run.state_digest if runs.can_resume(session, run) else None
    revision = dataset.revision
    if resume is not None and run.data_revision is not None:
        revision = run.data_revision
    shown_sets.hold(session, dataset.id)
    rows = segments.rows_at(session, dataset, revision)
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


@transactions.repeated
def _record(
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
        versions.lock(session, model)
        artifacts.require(
            session,
            runtime.store,
            answer.checkpoint,
            answer.artifacts,
            sets_of=model.dataset_id,
        )
        locks.training_run(session, run.id)
        parent = None if model.production_id is None else session.get(Version, model.production_id)
        version = versions.register(
            session,
            model,
            origin="trained",
            parent=parent,
            data_revision=request.data_revision,
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
        owes = versions.holds_forgotten(session, model, version)
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


@dataclass
class _Watch:
    """Watches a training: its lease, cancellation, waiting batches and progress."""

    runtime: Runtime
    run_id: str
    held: leases.Held
    due: float = 0.0
    #: A batch waits for the trainings lane: the training stops once its state is kept.
    batch_waits: bool = False

    def __call__(self) -> None:
        """Raise ``Ended`` when the run was ended from outside."""
        if time.monotonic() < self.due:
            return
        self.due = time.monotonic() + WATCH_SECONDS
        with self.runtime.session() as session:
            if runs.has_ended(session, self.run_id):
                raise Ended("ended from outside; its computation was stopped")
            self.batch_waits = queue.training_waits(session)

    def seen(self, progress: messages.Progress) -> None:
        """Record the training's progress, its results, and the state that it kept."""
        if not isinstance(progress, Kept):
            record = runs.draw if isinstance(progress, messages.Curve) else runs.progress
            with self.runtime.session() as session:
                record(session, self.run_id, asdict(progress))
            return
        with self.runtime.session() as session:
            leases.hold(session, self.held)
            run = session.get_one(TrainingRun, self.run_id)
            before = runs.keep(session, run, digest=progress.digest)
        if before is not None:
            kept_states.destroy(self.runtime, before)
        reach("train.kept")
        if self.runtime.stop.is_set():
            raise Stopping("the worker is stopping; the training will be resumed")
        if self.batch_waits:
            raise Yielding("a batch has precedence; the training is resumed afterwards")


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
    return str(error)


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
