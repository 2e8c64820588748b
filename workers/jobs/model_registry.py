"""Keep a model registry outside the service in step with what is live and what is withdrawn.

Removals and moves of the alias are short calls of the *events* lane; weights are copied in the
*background* lane. A registry that is away delays neither: each failure is recorded with its copy
and tried again after a pause, and no deletion waits for it.
"""

from __future__ import annotations

import logging
import random
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from models_store import errors
from service.ledger.batches import leases
from service.ledger.database import db
from service.ledger.registry import copies
from service.ledger.registry.copies import Step, Work
from service.ledger.webhooks.outbox import Backoff
from workers.fault_points import reach
from workers.jobs import mlflow_registry
from workers.jobs.mlflow_registry import NotDone, Registry, Weights
from workers.runtime import Runtime

log = logging.getLogger(__name__)

#: The lease whose end says that what the registry has is compared with the ledger again.
CHECK_LEASE = "registry:check"
CHECK_SECONDS = 3600.0

PIECE_BYTES = 1 << 20


def keep_in_step(runtime: Runtime) -> bool:
    """Remove what is out of service and move aliases; True if anything was done."""
    if not runtime.settings.mlflow_tracking_uri:
        return False
    return Bridge(runtime).keep_in_step()


def register_due(runtime: Runtime) -> bool:
    """Copy the weights of live versions that are not registered yet; True if any was."""
    if not runtime.settings.mlflow_tracking_uri:
        return False
    return Bridge(runtime).register_due()


@dataclass
class Bridge:
    """Carries out steps, each under the lease of its version, or of its model's alias."""

    runtime: Runtime
    backoff: Backoff = field(default_factory=lambda: Backoff(longest_seconds=900.0))
    jitter: Callable[[], float] = random.random
    #: Tells the time of attempts and pauses.
    clock: Callable[[], datetime] | None = None
    _opened: Registry | None = None

    def keep_in_step(self) -> bool:
        """Remove and point what is due, and check once an hour what the registry has."""
        worked = self._work(Step.REMOVE, Step.POINT)
        return self._check() or worked

    def register_due(self) -> bool:
        """Register what is due."""
        self._clear_left()
        return self._work(Step.REGISTER)

    def _work(self, *steps: Step) -> bool:
        with self.runtime.session() as session:
            due = copies.due(db.read_only(session), *steps, now=self._now())
        worked = False
        for place, one in enumerate(due):
            if self.runtime.stop.is_set():
                break
            with self.runtime.lease(_lease_for(one)) as held:
                if held is None or not self._still_due(one):
                    continue
                try:
                    with self._renewing(held):
                        self._do(one, held)
                    worked = True
                except leases.LeaseLost:
                    log.info("a step in the model registry was taken over by another worker")
                except NotDone as failure:
                    away = isinstance(failure, mlflow_registry.Away)
                    self._fail(one, str(failure), due[place + 1 :] if away else ())
                    if away:
                        break
        return worked

    @contextmanager
    def _renewing(self, held: leases.Held) -> Iterator[None]:
        """Renew a lease while a step lasts, in a thread: a copy takes as long as it takes."""
        ended = threading.Event()
        seconds = self.runtime.settings.lease_seconds

        def renew() -> None:
            while not ended.wait(seconds / 3):
                try:
                    with self.runtime.session() as session:
                        leases.renew(session, held, seconds=seconds, now=self.runtime.now())
                except (leases.LeaseLost, SQLAlchemyError):
                    return  # the step is not recorded then

        thread = threading.Thread(target=renew, name="registry lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _still_due(self, work: Work) -> bool:
        """Return whether no other worker has done it between the look and the lease."""
        with self.runtime.session() as session:
            again = copies.due(db.read_only(session), work.step, now=self._now())
        return work in again

    def _do(self, work: Work, held: leases.Held) -> None:
        weights, number = Weights(work.model, work.version, work.digest), None
        if work.step == Step.REMOVE:
            shutil.rmtree(self._folder(work.version_id), ignore_errors=True)
            self._registry.remove(weights)
        elif work.step == Step.POINT:
            self._registry.point(weights, work.number or "")
        else:
            with self.runtime.session() as session:
                if not copies.begin(session, work, now=self._now()):
                    return
            number = self._register(work, weights)
        reach("registry.done")
        with self.runtime.session() as session:
            leases.hold(session, held)
            copies.done(session, work, number=number, actor=self.runtime.actor, now=self._now())

    def _register(self, work: Work, weights: Weights) -> str:
        folder = self._folder(work.version_id)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            file = folder / f"{work.model}-{work.version}.safetensors"
            try:
                folder.mkdir(parents=True)
                with (
                    self.runtime.store.blobs.open("checkpoints", work.digest) as source,
                    file.open("wb") as copy,
                ):
                    shutil.copyfileobj(source, copy, PIECE_BYTES)
            except errors.NotStored:
                raise mlflow_registry.Refused("its weights are not in the store") from None
            except OSError as error:
                kind = type(error).__name__
                raise mlflow_registry.Refused(
                    f"its weights could not be copied to the worker's state directory ({kind})"
                ) from error
            return self._registry.register(weights, file)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _fail(self, work: Work, error: str, behind: Sequence[Work]) -> None:
        now = self._now()
        log.warning(
            "model registry: version %d of %s was not done (%s): %s",
            work.version,
            work.model,
            work.step.value,
            error,
        )
        with self.runtime.session() as session:
            failures = copies.failures(session, work) + 1
            not_before = now + self.backoff.pause(failures, jitter=self.jitter())
            copies.failed(session, work, error=error, not_before=not_before, now=now)
            copies.put_off(session, behind, not_before=not_before)

    def _check(self) -> bool:
        """Have what is in the registry and should not be removed again, looked at once an hour."""
        with self.runtime.session() as session:
            if not leases.is_free(db.read_only(session), CHECK_LEASE, now=self._now()):
                return False
            names = copies.names(session)
        with self.runtime.session() as session:
            # Never released: the next check is due when the lease expires.
            held = leases.acquire(
                session,
                CHECK_LEASE,
                owner=self.runtime.owner,
                seconds=CHECK_SECONDS,
                now=self._now(),
            )
        if held is None or not names:
            return False
        try:
            found = [one for name in names for one in self._registry.found(name)]
        except NotDone as failure:
            log.warning("model registry: what it has was not checked: %s", failure)
            return False
        with self.runtime.session() as session:
            again = copies.returned(
                session,
                [(one.model, one.version, one.digest) for one in found],
                actor=self.runtime.actor,
            )
        for one in again:
            log.error("model registry: version %d of %s is still there", one.version, one.model)
        return bool(again)

    def _clear_left(self) -> None:
        """Remove copies that a worker which died had begun."""
        if not self._copies.is_dir():
            return
        for folder in self._copies.iterdir():
            with self.runtime.lease(_lease_of(int(folder.name))) as held:
                if held is not None:
                    shutil.rmtree(folder, ignore_errors=True)

    @property
    def _registry(self) -> Registry:
        if self._opened is None:
            self._opened = mlflow_registry.open_registry(self.runtime.settings)
        return self._opened

    @property
    def _copies(self) -> Path:
        return self.runtime.settings.state_dir / "copies"

    def _folder(self, version_id: int) -> Path:
        return self._copies / str(version_id)

    def _now(self) -> datetime:
        return self.clock() if self.clock is not None else self.runtime.now()


def _lease_for(work: Work) -> str:
    # Two moves of one alias at once might end in another order there than in the ledger.
    if work.step == Step.POINT:
        return f"registry:alias:{work.model}"
    return _lease_of(work.version_id)


def _lease_of(version_id: int) -> str:
    return f"registry:{version_id}"
