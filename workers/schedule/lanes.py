"""Four lanes of work in one worker, by cost, so that no step waits behind a training.

Each lane has its own compute process, started when it first computes, and does one job at a time.
A Celery message wakes it; so does its own poll of the database, which also finds work whose
message was lost.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy.exc import SQLAlchemyError

from models_store import errors
from service import broker
from service.ledger.database import db
from service.ledger.registry import counts
from workers.jobs import (
    append,
    deadlines,
    encoders,
    ingest,
    inspections,
    kept_states,
    measure,
    model_registry,
    opendsr,
    pipeline,
    prepare,
    purge,
    reconcile,
    spare,
    train,
    webhooks,
)
from workers.runtime import Runtime

log = logging.getLogger(__name__)

#: A busy lane that has used neither the database nor its computation for this long counts as hung.
#: Ten times the limit of a statement.
HUNG_SECONDS = 600.0

Recipe = Callable[[Runtime], object]

#: Jobs in the order in which a lane looks for work.
DELETIONS: Sequence[Recipe] = (
    prepare.describe_due,
    encoders.run_due,
    measure.run_due,
    pipeline.run_steps_due,
    reconcile.run_due,  # in two lanes, because one may be busy for long
)
#: In order of precedence: after each job that did something the lane begins again with the first. A
#: batch whose anchor is being prepared finds it prepared; a training run comes after every batch.
TRAININGS: Sequence[Recipe] = (
    prepare.run_due,
    pipeline.run_trainings_due,
    train.consolidate_due,
    train.run_due,
    spare.run_due,
)
BACKGROUND: Sequence[Recipe] = (
    inspections.run_due,
    ingest.run_due,
    append.run_due,
    reconcile.run_due,
    kept_states.destroy_left,
    purge.run_due,
    purge.sweep,
    ingest.remove_fetched,
    model_registry.register_due,
)


#: Apart from the others, because receivers may be slow, and a warning must not wait for an ingest.
EVENTS: Sequence[Recipe] = (
    deadlines.run_due,
    opendsr.run_due,
    model_registry.keep_in_step,
    webhooks.run_due,
)


def make(name: str, runtime: Runtime) -> Lane:
    """Return the lane that a queue wakes, by the queue's name."""
    recipes = {
        broker.DELETIONS: DELETIONS,
        broker.TRAININGS: TRAININGS,
        broker.BACKGROUND: BACKGROUND,
        broker.EVENTS: EVENTS,
    }[name]
    return Lane(runtime, recipes, by_precedence=name == broker.TRAININGS, name=name)


@dataclass
class Lane:
    """Jobs that are run one after the other, by one thread at a time."""

    runtime: Runtime
    recipes: Sequence[Recipe]
    #: Begin again with the first job after each that did something.
    by_precedence: bool = False
    name: str = "other"
    _busy: threading.Lock = field(default_factory=threading.Lock)
    _again: threading.Event = field(default_factory=threading.Event)
    _poll: threading.Thread | None = None
    #: When the running job began, by this machine's clock.
    busy_since: datetime | None = None

    def run(self) -> None:
        """Do all that is due; if the lane is busy, have it look once more when it is done."""
        self._again.set()
        while self._again.is_set() and self._busy.acquire(blocking=False):
            try:
                self._again.clear()
                self._run_recipes()
            finally:
                self._busy.release()

    def hangs(self) -> bool:
        """Return whether the lane is busy and has made no progress for ``HUNG_SECONDS``.

        A long training is checked on every half second; an idle lane does not hang.
        """
        idle = self.busy_since is None
        return not idle and time.monotonic() - self.runtime.moved_at > HUNG_SECONDS

    def start_polling(self) -> None:
        """Look for due work, now and every ``poll_seconds``, in a thread of its own."""
        self._poll = threading.Thread(target=self._keep_polling, name="poll", daemon=True)
        self._poll.start()

    def close(self) -> None:
        """Wait for the running job, which ends or is handed back within the grace period."""
        if self._poll is not None:
            self._poll.join()
        with self._busy:
            self.runtime.close()

    def _keep_polling(self) -> None:
        self.run()
        while not self.runtime.stop.wait(self.runtime.settings.poll_seconds):
            self.run()

    def _run_recipes(self) -> None:
        if not self.runtime.store_answers():
            return  # work in progress is recorded in the ledger and will be found again
        waiting = list(reversed(self.recipes))
        while waiting:
            if self.runtime.stop.is_set():
                return
            recipe = waiting.pop()
            began = self.runtime.moved_at = time.monotonic()
            self.busy_since = db.now()
            try:
                if recipe(self.runtime) and self.by_precedence:
                    waiting = list(reversed(self.recipes))
            except SQLAlchemyError as error:
                # The database is unreachable; the ledger still has the work, so poll again later.
                log.warning("the database does not answer: %s", type(error).__name__)
                time.sleep(min(1.0, self.runtime.settings.poll_seconds))
                return
            except errors.BucketUnavailable as error:
                log.warning("%s", self.runtime.store_away(str(error)))
                return
            except Exception:
                # An error of one job must not keep the others from running.
                log.exception("%s failed", getattr(recipe, "__module__", recipe))
                self.runtime.counter.add(counts.JOB_FAILURES, self.name)
            finally:
                self.busy_since = None
                seconds = time.monotonic() - began
                self.runtime.counter.add(counts.BUSY, self.name, by=seconds)
