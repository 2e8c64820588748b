"""Everything that may happen to the ledger, as rules of a state machine.

After every step the ledger must agree with the model of ``driven.py``.
"""

from __future__ import annotations

from datetime import timedelta

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule
from sqlalchemy import select

from service.errors import Conflict
from service.ledger.audit import chain
from service.ledger.batches import execution, leases
from service.ledger.database import locks
from service.ledger.database.states import ErasureStatus, IllegalMove, RequestStatus, VersionStatus
from service.ledger.database.tables import (
    Batch,
    Dataset,
    DeletionRequest,
    Model,
    Record,
    TrainingRun,
    Version,
)
from service.ledger.destruction import purges
from service.ledger.obligations import completion, raw_rows, shares, without_models
from service.ledger.registry import forgotten, lineage
from service.ledger.requests import intake, lifecycle, suppressions
from service.ledger.selection import matching
from service.ledger.training import runs
from tests import factories
from tests.factories import DIGESTER
from tests.service.ledger.driven import (
    LEASE_SECONDS,
    MODELS,
    RETRY,
    ROWS,
    WINDOW_SECONDS,
    WORKERS,
    Driven,
    Known,
)

row_sets = st.sets(st.integers(0, ROWS - 1), min_size=1, max_size=2)


class Ledger(Driven):
    """Every example has a dataset and two models of its own in a shared database."""

    @initialize()
    def found(self) -> None:
        with self.sessions.begin() as session:
            data = factories.dataset(session, rows=ROWS)
            self.dataset, self.name = data.id, data.name
            policy = {"max_wait_seconds": 0, "purge_after_seconds": WINDOW_SECONDS}
            self.models = [Known(factories.model(session, data, policy=policy).id) for _ in MODELS]
        # The other model is created and not trained: it holds nothing until it is.
        self.train(0)
        self.finish_training(0)

    # Time and clients.

    @rule(seconds=st.sampled_from([1, LEASE_SECONDS, WINDOW_SECONDS]))
    def wait(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(rows=row_sets)
    def ask(self, rows: set[int]) -> None:
        with self.sessions.begin() as session:
            receipt = intake.record(
                session,
                matching.Ask(self.name, "records", tuple(f"r{row}" for row in rows)),
                principal="key_test",
                digester=DIGESTER,
                now=self.now,
            )
        assert receipt.answer["already_forgotten"] == len(rows & self.erased)
        if rows - self.erased:
            self.asked[receipt.answer["id"]] = rows - self.erased
        else:
            assert receipt.answer["status"] == RequestStatus.COMPLETED

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def ask_again(self, data: st.DataObject) -> None:
        """For records that another request names already."""
        self.ask(self.asked[data.draw(st.sampled_from(sorted(self.asked)))])

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.asked)))
        with self.sessions() as session:
            status = session.get_one(DeletionRequest, request_id).status
        may = status == RequestStatus.ACCEPTED
        refused = self._refused(
            Conflict, lambda session: lifecycle.cancel(session, request_id, actor="key:k")
        )
        # Said again, a cancellation is answered as the first time.
        assert refused == (not may and status != RequestStatus.CANCELLED)
        if may:
            self.cancelled.add(request_id)

    @rule()
    def retry(self) -> None:
        with self.sessions.begin() as session:
            for request in self._requests(session, RequestStatus.NEEDS_REVIEW):
                lifecycle.retry(session, request.id, actor="key:k")

    @rule(n=st.sampled_from(MODELS), data=st.data())
    def promote_by_hand(self, n: int, data: st.DataObject) -> None:
        """Roll back, or forth: allowed exactly when nothing forgotten comes back."""
        known = self.models[n]
        if not known.holds:
            return
        target = data.draw(st.sampled_from(sorted(known.holds)))
        with self.sessions() as session:
            status = session.get_one(Version, target).status
        refused = self._refused((Conflict, IllegalMove), lambda s: self._promote(s, known, target))
        # A candidate of this machine always owes something, or it would have been promoted.
        usable = status in (VersionStatus.PUBLISHED, VersionStatus.CANDIDATE)
        if known.holds[target] & known.forgotten:
            assert refused
        elif usable and not self._owed(known, target):
            assert not refused
        if not refused:
            known.production = target

    # Workers.

    @rule(worker=st.sampled_from(WORKERS), n=st.sampled_from(MODELS))
    def begin(self, worker: str, n: int) -> None:
        if self._acquire(worker, n):
            self._claim(worker, n)

    def _acquire(self, worker: str, n: int) -> bool:
        known = self.models[n]
        with self.sessions.begin() as session:
            held = leases.acquire(
                session,
                leases.of_model(known.id),
                owner=worker,
                seconds=LEASE_SECONDS,
                now=self.now,
            )
        free = known.lease_owner is None or known.lease_until <= self.now
        assert (held is not None) == free
        if held is not None:
            assert held.fence == known.fence + 1
            known.fence, known.lease_owner = held.fence, worker
            known.lease_until = self.now + timedelta(seconds=LEASE_SECONDS)
            self.holding[worker, n] = held
        return held is not None

    @precondition(lambda self: self.holding)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        worker, n = data.draw(st.sampled_from(sorted(self.holding)))
        held = self.holding.pop((worker, n))
        with self.sessions.begin() as session:
            leases.release(session, held, now=self.now)
        known = self.models[n]
        if held.fence == known.fence:
            known.lease_owner = None

    @precondition(lambda self: self.holding)
    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        worker, n = data.draw(st.sampled_from(sorted(self.holding)))
        self._claim(worker, n)

    @precondition(lambda self: self.working)
    @rule(data=st.data(), retrained=st.booleans())
    def complete(self, data: st.DataObject, retrained: bool) -> None:
        worker, n = data.draw(st.sampled_from(sorted(self.working)))
        self._complete(worker, n, retrained=retrained)

    @precondition(lambda self: self.working)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        worker, n = data.draw(st.sampled_from(sorted(self.working)))
        work = self.working.pop((worker, n))
        overtaken = self._overtaken(n, work)
        refused = self._refused(
            leases.LeaseLost,
            lambda s: execution.fail(
                s,
                s.get_one(Batch, work.batch_id),
                held=work.held,
                error="x",
                retry=RETRY,
                now=self.now,
            ),
        )
        assert refused == overtaken

    @precondition(lambda self: self.working)
    @rule(data=st.data())
    def hand_back(self, data: st.DataObject) -> None:
        worker, n = data.draw(st.sampled_from(sorted(self.working)))
        work = self.working.pop((worker, n))
        overtaken = self._overtaken(n, work)
        refused = self._refused(
            leases.LeaseLost,
            lambda s: execution.hand_back(
                s, s.get_one(Batch, work.batch_id), held=work.held, because="x", now=self.now
            ),
        )
        assert refused == overtaken

    @rule()
    def erase(self) -> None:
        """Raw rows: those that no open erasure, no training and no waiting anchor needs."""
        with self.sessions.begin() as session:
            for dataset_id in sorted(session.scalars(without_models.datasets(self.now))):
                for request_id in without_models.exclude(
                    session, dataset_id, now=self.now, actor="worker:w"
                ):
                    if request_id in self.asked:
                        self.excluded |= self.asked[request_id]
            dataset = session.get_one(Dataset, self.dataset)
            rows = set(suppressions.about_to_be_erased(session, dataset)[0])
            assert not rows & self._needed(session)
            raw_rows.mark_erased(session, dataset, sorted(rows), now=self.now, actor="worker:w")
            self.erased |= rows
            completion.settle(session, now=self.now, actor="worker:w")

    @rule()
    def purge(self) -> None:
        with self.sessions.begin() as session:
            due = purges.due(session, now=self.now)
            for known in self.models:
                for version_id in set(due) & set(known.holds):
                    version = session.get_one(Version, version_id)
                    assert known.production is not None
                    live = session.get_one(Version, known.production)
                    assert version_id not in (live.id, live.anchor_id)
                    assert version.retired_at is not None
                    assert self.now - version.retired_at >= timedelta(seconds=WINDOW_SECONDS)
                    assert known.holds[version_id] & self.excluded
                    purges.record(
                        session,
                        session.get_one(Model, known.id),
                        version,
                        receipt={},
                        actor="worker:w",
                        now=self.now,
                    )

    # Trainings.

    @rule(n=st.sampled_from(MODELS))
    def train(self, n: int) -> None:
        known = self.models[n]
        if known.training is not None:
            return
        with self.sessions.begin() as session:
            run = runs.create(
                session, session.get_one(Model, known.id), actor="key:k", now=self.now
            )
            dataset = locks.dataset(session, self.dataset, locks.Hold.PUBLICATION)
            runs.start(session, run, data_revision=dataset.revision, actor="worker:t", now=self.now)
            known.training = run.id, set(range(ROWS)) - self.excluded

    @rule(n=st.sampled_from(MODELS))
    def finish_training(self, n: int) -> None:
        """As ``workers.jobs.training_result``: promoted, or a candidate that owes deletions."""
        known = self.models[n]
        if known.training is None:
            return
        if known.lease_owner is not None and known.lease_until > self.now:
            return  # a batch is running: the training waits for the lease
        run_id, seen = known.training
        with self.sessions.begin() as session:
            run = session.get_one(TrainingRun, run_id)
            model = session.get_one(Model, known.id)
            version = self._register(
                session, model, origin="trained", run_id=run_id, data_revision=run.data_revision
            )
            runs.complete(session, run, version, actor="worker:t", now=self.now)
            if model.production_id is None:
                shares.join(session, model, data_revision=version.data_revision, now=self.now)
            known.holds[version.id], known.chain[version.id] = seen, []
            known.training = None
            owes = bool(forgotten.requests_in(session, model, version))
            assert owes == bool(self._owed(known, version.id, session))
            if not owes:
                self._promote(session, known, version.id)
                known.production = version.id

    @rule(n=st.sampled_from(MODELS))
    def fail_training(self, n: int) -> None:
        """For good: a model that has no version holds nothing again."""
        known = self.models[n]
        if known.training is None:
            return
        with self.sessions.begin() as session:
            run = session.get_one(TrainingRun, known.training[0])
            runs.fail(session, run, error="x", actor="worker:t", now=self.now)
        known.training = None

    # What must hold after every step.

    @invariant()
    def production_holds_nothing_forgotten(self) -> None:
        with self.reading() as session:
            for known in getattr(self, "models", []):
                model = session.get_one(Model, known.id)
                assert model.production_id == known.production
                if known.production is not None:
                    assert not known.holds[known.production] & known.forgotten
                    live = session.get_one(Version, known.production)
                    assert live.status == VersionStatus.PUBLISHED

    @invariant()
    def ledger_knows_what_each_version_holds(self) -> None:
        with self.reading() as session:
            for known in getattr(self, "models", []):
                for version_id, rows in sorted(known.holds.items()):
                    version = session.get_one(Version, version_id)
                    held = session.scalars(
                        select(Record.row).where(
                            Record.dataset_id == self.dataset,
                            lineage.contained(session, version),
                        )
                    )
                    assert set(held) == rows
                    if version.id == version.anchor_id:
                        continue
                    assert len(lineage.batch_chain(session, version)) == len(
                        known.chain[version_id]
                    )
                    assert version.batches_since_anchor == len(known.chain[version_id])
                    assert sum(version.forgotten_classes.values()) == sum(
                        map(len, known.chain[version_id])
                    )

    @invariant()
    def no_chain_forgets_a_record_twice(self) -> None:
        for known in getattr(self, "models", []):
            for steps in known.chain.values():
                assert sum(map(len, steps)) == len(set().union(*steps))

    @invariant()
    def raw_rows_stand_as_long_as_something_that_may_go_live_holds_them(self) -> None:
        for known in getattr(self, "models", []):
            if known.production is not None:
                assert not known.holds[known.production] & self.erased
            if known.training is not None:
                assert not known.training[1] & self.erased

    @invariant()
    def requests_and_their_shares_agree(self) -> None:
        if not self.asked:
            return
        with self.reading() as session:
            for request in self._requests(session):
                shares = self._shares(session, request.id)
                states = set(shares)
                if request.id in self.cancelled:
                    assert request.status == RequestStatus.CANCELLED
                    assert states <= {ErasureStatus.CANCELLED}
                elif request.status == RequestStatus.COMPLETED:
                    assert states <= {ErasureStatus.COMPLETED}
                    assert self.asked[request.id] <= self.erased
                elif request.status == RequestStatus.NEEDS_REVIEW:
                    assert ErasureStatus.NEEDS_REVIEW in states
                else:
                    assert ErasureStatus.NEEDS_REVIEW not in states
                    begun = states - {ErasureStatus.PENDING}
                    assert not begun or request.status == RequestStatus.PROCESSING

    def teardown(self) -> None:
        """A healthy worker, with time, brings everything to its end."""
        if not hasattr(self, "models"):
            return
        self.retry()
        for _ in range(60):
            self.wait(LEASE_SECONDS)
            for n in MODELS:
                self.finish_training(n)
                self.begin("w1", n)
                if ("w1", n) in self.working:
                    self._complete("w1", n, retrained=False)
                self._release_all(n)
            self.erase()
            if self._settled():
                break
        assert self._settled()
        with self.sessions() as session:
            assert chain.verify(session).sound
        self.production_holds_nothing_forgotten()
