"""Everybody who writes to the ledger, each as one call, on a small world without computing.

The transactions are those of API and workers; only what a compute process would answer is made up.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.errors import ServiceError
from service.ledger.batches import approvals, holds, next_batch
from service.ledger.database import db
from service.ledger.database.states import RequestStatus, VersionStatus
from service.ledger.database.tables import Dataset, DeletionRequest, Model, Record, Version
from service.ledger.destruction import purges, withdrawals
from service.ledger.obligations import completion, raw_rows
from service.ledger.registry import imports, versions
from service.ledger.reports import measurements
from service.ledger.requests import intake, lifecycle, page, suppressions
from service.ledger.selection.matching import Ask
from service.ledger.training import runs
from service.messages.unlearn import Answer as Unlearned
from tests import factories
from tests.workers.world import (
    DRIFTED,
    INACCURATE,
    MEMORISED,
    MOST_RECORDS,
    POLICY,
    REJECTED,
    RETRAINED,
    ROWS,
    STEPPED,
    World,
    digest,
    trained,
)
from workers.jobs import claiming, erase, pipeline, recording, training_request, training_result
from workers.runtime import Runtime


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

    def import_(self) -> int:
        with self.world.transaction() as session:
            model = self._model(session)
            revision = session.get_one(Dataset, model.dataset_id).revision
            return imports.register(
                session,
                model,
                digest=digest(),
                size_bytes=1,
                data_revision=revision,
                promote=True,
                is_stored=lambda: True,
                actor="key:k",
                now=db.now(),
            ).id

    def measure(self) -> None:
        """An import, until it is live."""
        version_id = self.import_()
        with self.world.transaction() as session:
            version = session.get_one(Version, version_id)
            measurements.decide(
                session,
                session.get_one(Model, version.model_id),
                version,
                measured={"verdict": measurements.ACCEPTED, "mark": None},
                data_revision=version.data_revision,
                actor="worker:w",
                now=db.now(),
            )

    def promote(self) -> None:
        """Production is moved by hand to another version that may go live."""
        with self.world.transaction() as session:
            model = self._model(session)
            usable = self._usable(session, model)
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
            usable = self._usable(session, model)
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
        erase._to_erase(self.runtime)  # excludes what no batch will
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
                for answer, following in answers or [
                    (RETRAINED if attempt.exact else STEPPED, None)
                ]:
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
                self.runtime, run_id, held, request, trained(self.world.settings.store)
            )

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

    def _usable(self, session: Session, model: Model) -> Sequence[Version]:
        """The model's newest versions that may go live, newest first."""
        return session.scalars(
            select(Version)
            .where(Version.model_id == model.id, Version.status == VersionStatus.PUBLISHED)
            .order_by(Version.id.desc())
            .limit(4)
        ).all()

    def _change(self, status: RequestStatus, act: Callable[[Session, str], object]) -> None:
        with self.world.transaction() as session:
            some = session.scalars(
                select(DeletionRequest.id).where(DeletionRequest.status == status).limit(8)
            ).all()
        if some:
            with self.world.transaction() as session:
                act(session, self.chance.choice(some))


_NAMES = """
    record approve deny cancel retry fail unlearn train publish import measure promote
    withdraw_version withdraw_model withdraw_dataset erase purge change_policy run_now
    reject hold approve_held consolidate die
"""
#: Every writer by its name.
ALL: dict[str, Callable[[Writer], object]] = {
    name: getattr(Writer, "import_" if name == "import" else name) for name in _NAMES.split()
}
