"""Everybody who writes to the ledger, each as one call, on a small world without computing.

The transactions are those of API and workers; only what a compute process would answer is made up.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from service.errors import ServiceError
from service.ledger.batches import approvals, holds, next_batch
from service.ledger.database import db
from service.ledger.database.states import RequestStatus, VersionStatus
from service.ledger.database.tables import Dataset, DeletionRequest, Model, Record, Version
from service.ledger.destruction import purges, withdrawals
from service.ledger.obligations import completion, raw_rows
from service.ledger.registry import imports, lineage, versions
from service.ledger.requests import intake, lifecycle, lookup, page, suppressions
from service.ledger.selection.matching import Ask
from service.ledger.training import runs
from service.messages.parts import Saved
from service.messages.train import Answer as Trained
from service.messages.train import Curve
from service.messages.unlearn import Answer as Unlearned
from service.settings import Settings
from tests import factories
from tests.service import announcements
from tests.stored import save
from workers.compute.process import ComputeProcess
from workers.jobs import (
    claiming,
    erase,
    pipeline,
    recording,
    training_request,
    training_result,
)
from workers.runtime import Runtime

ROWS = 120
#: Requests of more records wait for approval.
MOST_RECORDS = 3

POLICY = {
    "max_wait_seconds": 0,
    "max_records": 8,
    "purge_after_seconds": 0,
    "approval": {"max_records_per_request": MOST_RECORDS, "max_records_per_day": 100_000},
}

#: A verification that found nothing wrong.
PASSED: dict[str, Any] = {"verdict": "passed", "gates": [], "metrics": {}, "reasons": []}

_digests = itertools.count(1)


def _digest() -> str:
    return f"f{next(_digests):063x}"  # none of those of the factories


@dataclass
class World:
    """Two datasets; on each a live model and one that was never trained."""

    engine: Engine
    settings: Settings
    datasets: list[str]
    models: list[int]
    chance: random.Random = field(default_factory=lambda: random.Random(1))

    @classmethod
    def found(cls, engine: Engine, home: Path) -> World:
        settings = Settings(
            _env_file=None,
            state_dir=home,
            database_url=engine.url.render_as_string(hide_password=False),
            lease_seconds=60,
            max_attempts=1,
        )
        with db.session_factory(engine).begin() as session:
            announcements.announce(session)
            names, ids = [], []
            for _ in range(2):
                data = factories.dataset(session, rows=ROWS)
                names.append(data.name)
                for live in (True, False):
                    model = factories.model(session, data, policy=POLICY)
                    ids.append(model.id)
                    if live:
                        factories.version(session, model)
        return cls(engine, settings, names, ids)

    def worker(self, owner: str) -> Runtime:
        """A worker whose compute process is never started: nothing is computed."""
        return Runtime(
            self.settings, self.engine, ComputeProcess(device="cpu", threads=1), owner=owner
        )

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        with db.session_factory(self.engine).begin() as session:
            yield session


@dataclass
class Writer:
    """One who writes: what it does, again and again."""

    world: World
    runtime: Runtime
    chance: random.Random

    def record(self) -> None:
        """Requests of both datasets in one transaction, some of them for approval."""
        names = self.chance.sample(self.world.datasets, 2)
        sizes = (1, MOST_RECORDS + 1, 2, MOST_RECORDS + 1)
        asks = [
            Ask(name, "records", tuple(f"r{row}" for row in self._rows(size)))
            for name, size in zip(names * 2, sizes, strict=True)
        ]
        with self.world.transaction() as session:
            intake.record_many(
                session,
                [page.Submission(ask, "key_test") for ask in asks],
                digester=factories.DIGESTER,
                now=db.now(),
            )

    def approve(self) -> None:
        self._change(
            RequestStatus.AWAITING_APPROVAL,
            lambda session, one: lifecycle.approve(session, one, actor="key:k", now=db.now()),
        )

    def deny(self) -> None:
        self._change(
            RequestStatus.AWAITING_APPROVAL,
            lambda session, one: lifecycle.deny(session, one, because=None, actor="key:k"),
        )

    def cancel(self) -> None:
        self._change(
            RequestStatus.ACCEPTED,
            lambda session, one: lifecycle.cancel(session, one, actor="key:k"),
        )

    def retry(self) -> None:
        self._change(
            RequestStatus.NEEDS_REVIEW,
            lambda session, one: lifecycle.retry(session, one, actor="key:k"),
        )

    def unlearn(self) -> None:
        """Batches of the models, each from the claim to the version that goes live."""
        for model_id in self.chance.sample(self.world.models, len(self.world.models)):
            self.batch(model_id)

    def fail(self) -> None:
        """Batches of a model that fail for the last time: split, until one request is put aside."""
        for model_id in self.chance.sample(self.world.models, len(self.world.models)):
            if sum(self.batch(model_id, fails=True) for _ in range(4)):
                return

    def train(self) -> None:
        """A training from the queue to the version that goes live, or catches up."""
        with self.world.transaction() as session:
            model = self._model(session)
            run = runs.create(session, model, actor="key:k", now=db.now())
        self.run(run.id)

    def publish(self) -> None:
        """The first training of a model made for it."""
        with self.world.transaction() as session:
            data = session.scalars(
                select(Dataset).filter_by(name=self.chance.choice(self.world.datasets))
            ).one()
            model = factories.model(session, data, policy=POLICY)
            run = runs.create(session, model, actor="key:k", now=db.now())
        self.run(run.id)

    def import_(self) -> None:
        with self.world.transaction() as session:
            model = self._model(session)
            dataset = session.get_one(Dataset, model.dataset_id)
            imports.register(
                session,
                model,
                digest=_digest(),
                size_bytes=1,
                data_revision=dataset.revision,
                promote=True,
                is_stored=lambda: True,
                actor="key:k",
                now=db.now(),
            )

    def promote(self) -> None:
        """Production is moved by hand to another version that may go live."""
        with self.world.transaction() as session:
            model = self._model(session)
            usable = session.scalars(
                select(Version)
                .where(Version.model_id == model.id, Version.status == VersionStatus.PUBLISHED)
                .order_by(Version.id.desc())
                .limit(4)
            ).all()
            if usable:
                versions.promote(
                    session,
                    model,
                    self.chance.choice(usable),
                    expected_production=model.production_id,
                    reason="by hand",
                    actor="key:k",
                    now=db.now(),
                )

    def withdraw_version(self) -> None:
        """Another one takes its place where it is live."""
        with self.world.transaction() as session:
            model = session.get_one(Model, self.world.models[0])
            usable = session.scalars(
                select(Version)
                .where(Version.model_id == model.id, Version.status == VersionStatus.PUBLISHED)
                .order_by(Version.id.desc())
                .limit(4)
            ).all()
            if len(usable) > 1:  # something must stay live, or the others have nothing to do
                going, other = usable[1], usable[0]  # nothing drawn: the others' draws stay
                live = going.id == model.production_id
                withdrawals.withdraw_version(
                    session,
                    model,
                    going,
                    successor=other if live else None,
                    actor="key:k",
                    now=db.now(),
                )

    def withdraw_model(self) -> None:
        """One that was made by ``publish``."""
        with self.world.transaction() as session:
            made = session.scalars(
                select(Model)
                .where(Model.id.not_in(self.world.models), Model.withdrawn_at.is_(None))
                .order_by(Model.id)
            ).all()
            if made:
                withdrawals.withdraw_model(session, made[0], actor="key:k", now=db.now())

    def withdraw_dataset(self) -> None:
        """One made for it, with a live model and open requests."""
        with self.world.transaction() as session:
            data = factories.dataset(session, rows=4)
            model = factories.model(session, data, policy=POLICY)
            factories.version(session, model)
            for row in (0, 1):
                request = factories.request(session, data, rows=[row])
                factories.erasure(session, request, model)
        with self.world.transaction() as session:
            withdrawals.withdraw_dataset(
                session,
                session.get_one(Dataset, data.id),
                models="withdraw",
                actor="key:k",
                now=db.now(),
            )

    def erase(self) -> None:
        """As the worker does, but that no file is there to overwrite."""
        erase._exclude_without_models(self.runtime)
        for name in self.world.datasets:
            with self.world.transaction() as session:
                data = session.scalars(select(Dataset).filter_by(name=name)).one()
                rows = suppressions.about_to_be_erased(session, data)[0]
            with self.world.transaction() as session:
                raw_rows.mark_erased(session, data, rows, now=db.now(), actor="worker:w")
        with self.world.transaction() as session:
            completion.settle(session, now=db.now(), actor="worker:w")

    def purge(self) -> None:
        with self.world.transaction() as session:
            for version_id in purges.due(session, now=db.now())[:2]:
                version = session.get_one(Version, version_id)
                if version.status != VersionStatus.PURGED:
                    model = session.get_one(Model, version.model_id)
                    purges.record(session, model, version, receipt={}, actor="w", now=db.now())

    def change_policy(self) -> None:
        with self.world.transaction() as session:
            seconds = self.chance.choice([0, 0.001])
            next_batch.change_policy(
                session,
                self._model(session),
                {"max_wait_seconds": seconds},
                actor="key:k",
                now=db.now(),
            )

    def run_now(self) -> None:
        with self.world.transaction() as session:
            model = self._model(session)
            next_batch.run_now(session, model, method=None, options={}, actor="key:k", now=db.now())

    def reject(self) -> None:
        """Batches of which the first version is rejected, for one reason or another."""
        self._ask()
        for model_id in self.chance.sample(self.world.models, len(self.world.models)):
            self.batch(model_id, answers=[(MEMORISED, "retrain"), (RETRAINED, None)])
        self._ask()
        for model_id in self.chance.sample(self.world.models, len(self.world.models)):
            self.batch(model_id, answers=[(REJECTED, "retrain"), (RETRAINED, None)])

    def hold(self) -> None:
        """Batches of which the version waits for approval."""
        self._ask()
        for answer in self.chance.sample([INACCURATE, MEMORISED], 2):
            for model_id in self.chance.sample(self.world.models, len(self.world.models)):
                self.batch(model_id, answers=[(answer, None)])

    def approve_held(self) -> None:
        for model_id in self.world.models:
            with self.world.transaction() as session:
                model = session.get_one(Model, model_id)
                batch = holds.of(session, model)
                if batch is not None:
                    version = session.get_one(Version, batch.version_id)
                    approvals.approve(session, model, version, actor="key:k", now=db.now())

    def consolidate(self) -> None:
        """Batches after which a retrain is queued, and cancelled."""
        self._ask()
        for model_id in self.chance.sample(self.world.models, len(self.world.models)):
            self.batch(model_id, answers=[(DRIFTED, None)])
            with self.world.transaction() as session:
                run = runs.active(session, session.get_one(Model, model_id))
                if run is not None and run.reason == "consolidate":
                    runs.cancel(session, run, actor="key:k", now=db.now())

    def die(self) -> None:
        """Batches of which the worker died as often as it may."""
        self._ask()
        for model_id in self.chance.sample(self.world.models, len(self.world.models)):
            with claiming.begun(self.runtime, model_id, trains=False):
                pass  # and nothing is recorded
            with claiming.begun(self.runtime, model_id, trains=False):
                pass  # nothing of that batch; perhaps the next one, of somebody else's requests

    def batch(
        self,
        model_id: int,
        *,
        fails: bool = False,
        answers: Sequence[tuple[Callable[[Path], Unlearned], str | None]] = (),
    ) -> bool:
        """The model's next batch; False when nothing is due or somebody else is at it.

        ``answers``: what each of its methods answers, with the method that follows.
        """
        with claiming.begun(self.runtime, model_id, trains=False) as found:
            if found is None:
                return False
            held, claimed = found
            if fails:
                pipeline._fail(self.runtime, held, claimed, ServiceError("on purpose"))
            elif not claimed.request.forget:
                recording.complete_without_update(self.runtime, held, claimed)
            else:
                [attempt, *_] = claimed.methods
                for answer, following in answers or [(partial(_answer, exact=attempt.exact), None)]:
                    recording.record(
                        self.runtime,
                        held,
                        claimed,
                        attempt.choice,
                        claimed.request,
                        answer(self.world.settings.store),
                        following=following,
                    )
            return True

    def run(self, run_id: str) -> None:
        """A queued training, from its start to its version."""
        with self.runtime.lease(f"run:{run_id}") as held:
            assert held is not None
            request = training_request.start(self.runtime, run_id, held)
            assert request is not None
            training_result.record(
                self.runtime, run_id, held, request, _trained(self.world.settings.store)
            )

    # How.

    def _ask(self) -> None:
        """One request for each dataset, of one record that nobody has asked for if there is any."""
        with self.world.transaction() as session:
            for name in self.world.datasets:
                data = session.scalars(select(Dataset).filter_by(name=name)).one()
                left = session.scalars(
                    select(Record.record_id).where(
                        Record.dataset_id == data.id, Record.excluded_revision.is_(None)
                    )
                ).all()
                intake.record(
                    session,
                    Ask(name, "records", (self.chance.choice(left or ["r0"]),)),
                    principal="key_test",
                    digester=factories.DIGESTER,
                    now=db.now(),
                )

    def _rows(self, count: int) -> list[int]:
        return self.chance.sample(range(ROWS), count)

    def _model(self, session: Session) -> Model:
        return session.get_one(Model, self.chance.choice(self.world.models))

    def _change(self, status: RequestStatus, act: Callable[[Session, str], object]) -> None:
        with self.world.transaction() as session:
            some = session.scalars(
                select(DeletionRequest.id).where(DeletionRequest.status == status).limit(8)
            ).all()
        if some:
            with self.world.transaction() as session:
                act(session, self.chance.choice(some))


def _checkpoint(store: Path) -> Saved:
    """Weights that no other call has stored."""
    saved = save(store, {"weights": np.array([next(_digests)])}, {})
    return Saved(digest=saved.digest, size_bytes=saved.size_bytes)


def _trained(store: Path) -> Trained:
    """What a compute process answers to a training that went well."""
    return Trained(
        checkpoint=_checkpoint(store),
        artifacts=[],
        curve=Curve(training_rows=1, validation_rows=1, epochs=[(1.0, 1.0, 0.5, None)]),
        notes={},
        comparison=None,
        accuracy_drop=False,
        timings={},
        verification=PASSED,
    )


def _answer(
    store: Path,
    *,
    exact: bool,
    verification: dict[str, Any] = PASSED,
    retrain_because: Sequence[str] = (),
) -> Unlearned:
    """What a compute process answers to an update that went well, or as it says."""
    return Unlearned(
        checkpoint=_checkpoint(store),
        artifacts=[],
        is_anchor=exact,
        notes={},
        retrain_because=list(retrain_because),
        timings={},
        verification=verification,
    )


_LOST = {"gate": "accuracy", "concern": "utility", "outcome": "failed", "reason": "lower"}

STEPPED = partial(_answer, exact=False)
RETRAINED = partial(_answer, exact=True)
REJECTED = partial(
    _answer, exact=False, verification=PASSED | {"verdict": "failed", "reasons": ["removal: no"]}
)
#: An exact version that lost accuracy.
INACCURATE = partial(
    _answer, exact=True, verification=PASSED | {"verdict": "failed", "gates": [_LOST]}
)
#: A step of which memorised records may be left.
MEMORISED = partial(
    _answer,
    exact=False,
    verification=PASSED | {"verdict": "no_power", "memorised": {"left": True}},
)
DRIFTED = partial(_answer, exact=False, retrain_because=["drift: too much"])


#: Every writer by its name.
ALL: dict[str, Callable[[Writer], None]] = {
    "record": Writer.record,
    "approve": Writer.approve,
    "deny": Writer.deny,
    "cancel": Writer.cancel,
    "retry": Writer.retry,
    "fail": Writer.fail,
    "unlearn": Writer.unlearn,
    "train": Writer.train,
    "publish": Writer.publish,
    "import": Writer.import_,
    "promote": Writer.promote,
    "withdraw_version": Writer.withdraw_version,
    "withdraw_model": Writer.withdraw_model,
    "withdraw_dataset": Writer.withdraw_dataset,
    "erase": Writer.erase,
    "purge": Writer.purge,
    "change_policy": Writer.change_policy,
    "run_now": Writer.run_now,
    "reject": Writer.reject,
    "hold": Writer.hold,
    "approve_held": Writer.approve_held,
    "consolidate": Writer.consolidate,
    "die": Writer.die,
}


def missed(session: Session) -> list[str]:
    """Requests that are completed although a version that is not withdrawn holds their rows."""
    found = []
    for version in session.scalars(select(Version).filter_by(status=VersionStatus.PUBLISHED)):
        model = session.get_one(Model, version.model_id)
        inside = set(
            session.scalars(
                select(Record.row).where(
                    Record.dataset_id == model.dataset_id,
                    lineage.contained(session, version),
                )
            )
        )
        done = select(DeletionRequest.id).filter_by(
            dataset_id=model.dataset_id, status=RequestStatus.COMPLETED
        )
        for request_id in session.scalars(done):
            if inside.intersection(lookup.rows(session, request_id)):
                found.append(f"{versions.subject(model, version)} holds {request_id}")
    return found
