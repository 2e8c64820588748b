"""What watches a training while it computes: its lease, cancellation, waiting batches, progress."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

from service.ledger.batches import leases, queue
from service.ledger.database.states import IllegalMove
from service.ledger.database.tables import TrainingRun
from service.ledger.training import run_states, runs
from service.messages import train as messages
from service.messages.parts import Kept
from workers.compute.process import Stopping
from workers.fault_points import reach
from workers.jobs import kept_states
from workers.runtime import Runtime

#: Seconds between two checks whether a training was cancelled or a batch waits for its lane.
WATCH_SECONDS = 1.0


class Ended(IllegalMove):
    """The run was cancelled, or its model withdrawn, while it trained."""


class Yielding(Exception):
    """A batch that must be trained takes precedence over a training run."""


@dataclass
class Watch:
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
            before = run_states.keep(session, run, digest=progress.digest)
        if before is not None:
            kept_states.destroy(self.runtime, before)
        reach("train.kept")
        if self.runtime.stop.is_set():
            raise Stopping("the worker is stopping; the training will be resumed")
        if self.batch_waits:
            raise Yielding("a batch has precedence; the training is resumed afterwards")
