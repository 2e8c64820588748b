"""The ledger driven step by step, beside a small model of what it should hold.

The model knows sets of rows and nothing of SQL: what each version holds (the rows its training
saw, less what each batch since took out), what each model has been made to forget, who holds which
lease until when.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from hypothesis.stateful import RuleBasedStateMachine
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from service.ledger.batches import claims, execution, leases, queue
from service.ledger.database import db
from service.ledger.database.states import (
    BatchStatus,
    ErasureStatus,
    RequestStatus,
    VersionStatus,
)
from service.ledger.database.tables import (
    Batch,
    Dataset,
    DeletionRequest,
    Erasure,
    Model,
    Version,
)
from service.ledger.obligations import shares
from service.ledger.registry import versions
from tests.factories import NOW

ROWS = 5
LEASE_SECONDS = 30
WINDOW_SECONDS = 60
RETRY = execution.Retry(max_attempts=1, backoff_seconds=1.0)
WORKERS = ("w1", "w2")
MODELS = (0, 1)
OPEN = shares.OPEN


@dataclass
class Work:
    """A batch as the worker that computes it remembers it."""

    held: leases.Held
    batch_id: str
    base: int
    rows: set[int]


@dataclass
class Known:
    """What the model of the ledger knows of one model."""

    id: int
    #: Rows that each version holds.
    holds: dict[int, set[int]] = field(default_factory=dict)
    #: Batches between each version and its anchor, as sets of rows.
    chain: dict[int, list[set[int]]] = field(default_factory=dict)
    production: int | None = None
    #: Rows that a completed erasure made it forget.
    forgotten: set[int] = field(default_factory=set)
    lease_owner: str | None = None
    lease_until: Any = NOW
    fence: int = 0
    #: What a running training has seen.
    training: tuple[str, set[int]] | None = None


class Driven(RuleBasedStateMachine):
    """The steps of workers, and what the model knows after each; ``models`` are founded first."""

    models: list[Known]
    dataset: str
    name: str

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.sessions = db.session_factory(engine)
        self.now = NOW
        self.asked: dict[str, set[int]] = {}
        self.cancelled: set[str] = set()
        self.holding: dict[tuple[str, int], leases.Held] = {}
        self.working: dict[tuple[str, int], Work] = {}
        self.excluded: set[int] = set()
        self.erased: set[int] = set()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        with self.sessions() as session:
            yield db.read_only(session)

    def _claim(self, worker: str, n: int) -> None:
        known = self.models[n]
        held = self.holding[worker, n]
        with self.sessions.begin() as session:
            model = session.get_one(Model, known.id)
            before = set(
                session.scalars(
                    select(Erasure.id).filter_by(model_id=known.id, status=ErasureStatus.PENDING)
                )
            )
            due = known.id in queue.due_models(session, now=self.now)
            try:
                batch = claims.claim(session, model, held=held, now=self.now)
            except leases.LeaseLost:
                assert held.fence < known.fence
                batch = None
            else:
                assert held.fence == known.fence
                assert due or batch is None
                self._note_promoted_candidate(session, known, model)
            if batch is None:
                self.working.pop((worker, n), None)
                return
            members = execution.erasures_of(session, batch)
            rows = set(execution.rows(session, batch))
            taken = self._taken_rows(members)
            self.excluded |= taken
            base = batch.base_version_id
            if batch.attempts == 1 and members and {one.id for one in members} <= before:
                assert base == known.production
                assert rows == known.holds[base] & taken
            assert rows <= known.holds[base]
            self.working[worker, n] = Work(held, batch.id, base, rows)

    def _complete(self, worker: str, n: int, *, retrained: bool) -> None:
        known = self.models[n]
        work = self.working.pop((worker, n))
        made: list[int] = []

        def act(session: Session) -> None:
            leases.hold(session, work.held)
            batch = session.get_one(Batch, work.batch_id)
            base = session.get_one(Version, work.base)
            model = session.get_one(Model, known.id)
            if not work.rows:
                versions.require_production(session, base)
                execution.complete(session, batch, base, held=work.held, now=self.now)
                return
            catching_up = base.status == VersionStatus.CANDIDATE
            version = self._register(session, model, parent=base, batch=batch, anchor=retrained)
            execution.complete(session, batch, version, held=work.held, now=self.now)
            known.holds[version.id] = (
                set(range(ROWS)) - self.excluded if retrained else known.holds[base.id] - work.rows
            )
            expected = model.production_id if catching_up else base.id
            self._promote(session, known, version.id, expected=expected)
            known.chain[version.id] = [] if retrained else [*known.chain[base.id], work.rows]
            made.append(version.id)

        overtaken = self._overtaken(n, work)
        with self.sessions() as session:
            base = session.get_one(Version, work.base)
            moved = known.production != work.base and base.status != VersionStatus.CANDIDATE
            members = execution.erasures_of(session, session.get_one(Batch, work.batch_id))
        refused = self._refused((leases.LeaseLost, versions.ProductionMoved), act)
        assert refused == (overtaken or moved)
        if refused:
            known.holds = {k: v for k, v in known.holds.items() if k in known.chain}
            if not overtaken:  # as the pipeline does
                with self.sessions.begin() as session:
                    execution.hand_back(
                        session,
                        session.get_one(Batch, work.batch_id),
                        held=work.held,
                        because="production moved",
                        now=self.now,
                    )
            return
        known.forgotten |= self._taken_rows(members)
        if made:
            known.production = made[0]

    def _note_promoted_candidate(self, session: Session, known: Known, model: Model) -> None:
        """An anchor whose debts became open requests again is promoted by the claim."""
        session.flush()
        session.refresh(model)
        if model.production_id != known.production:
            assert model.production_id is not None
            assert not known.holds[model.production_id] & known.forgotten
            known.production = model.production_id

    def _register(
        self,
        session: Session,
        model: Model,
        *,
        origin: str = "unlearned",
        run_id: str | None = None,
        data_revision: int | None = None,
        parent: Version | None = None,
        batch: Batch | None = None,
        anchor: bool = False,
    ) -> Version:
        if data_revision is None:
            assert parent is not None
            revision = session.get_one(Dataset, self.dataset).revision
            data_revision = revision if anchor else parent.data_revision
        return versions.register(
            session,
            model,
            origin="retrained" if anchor else origin,
            digest="d" * 64,
            size_bytes=1,
            data_revision=data_revision,
            seed=1,
            code_version="0",
            now=self.now,
            actor="worker:w",
            parent=parent,
            anchor_id=None if parent is None or anchor else parent.anchor_id,
            training_run_id=run_id,
            batch_id=None if batch is None else batch.id,
        )

    def _promote(
        self, session: Session, known: Known, version_id: int, *, expected: int | None = -1
    ) -> None:
        model = session.get_one(Model, known.id)
        versions.promote(
            session,
            model,
            session.get_one(Version, version_id),
            expected_production=known.production if expected == -1 else expected,
            reason="test",
            actor="worker:w",
            now=self.now,
        )

    def _refused(self, kinds: Any, act: Callable[[Session], object]) -> bool:
        try:
            with self.sessions.begin() as session:
                act(session)
        except kinds:
            return True
        return False

    def _overtaken(self, n: int, work: Work) -> bool:
        """Whether somebody else holds the lease, or this holder has ended the batch before."""
        if work.held.fence != self.models[n].fence or self.models[n].lease_owner is None:
            return True
        with self.sessions() as session:
            batch = session.get_one(Batch, work.batch_id)
            return batch.status != BatchStatus.RUNNING or batch.fence != work.held.fence

    def _taken_rows(self, members: list[Erasure]) -> set[int]:
        return set().union(*(self.asked[one.request_id] for one in members))

    def _owed(self, known: Known, version_id: int, session: Session | None = None) -> set[int]:
        """Rows that a version holds, nobody may train on, and no open erasure will see to."""
        if session is None:
            with self.sessions() as mine:
                return self._owed(known, version_id, mine)
        still_open: set[int] = set()
        for one in session.scalars(select(Erasure).filter_by(model_id=known.id)):
            if one.status in OPEN:
                still_open |= self.asked[one.request_id]
        there = known.holds[version_id] & self.excluded
        return (there - still_open) | (known.holds[version_id] & known.forgotten)

    def _needed(self, session: Session) -> set[int]:
        needed = set(range(ROWS)) - self.excluded
        for known in self.models:
            for one in session.scalars(select(Erasure).filter_by(model_id=known.id)):
                if one.status in OPEN:
                    needed |= self.asked[one.request_id]
            if known.training is not None:
                needed |= known.training[1]
            for version_id in known.holds:
                if session.get_one(Version, version_id).status == VersionStatus.CANDIDATE:
                    needed |= known.holds[version_id]
        return needed

    def _requests(self, session: Session, *states: RequestStatus) -> list[DeletionRequest]:
        wanted = select(DeletionRequest).where(DeletionRequest.id.in_(self.asked))
        if states:
            wanted = wanted.where(DeletionRequest.status.in_(states))
        return list(session.scalars(wanted))

    def _shares(self, session: Session, request_id: str) -> list[ErasureStatus]:
        wanted = select(Erasure.status).where(Erasure.request_id == request_id)
        return list(session.scalars(wanted))

    def _release_all(self, n: int) -> None:
        for worker in WORKERS:
            held = self.holding.pop((worker, n), None)
            if held is not None:
                with self.sessions.begin() as session:
                    leases.release(session, held, now=self.now)
        self.models[n].lease_owner = None

    def _settled(self) -> bool:
        ends = {RequestStatus.COMPLETED, RequestStatus.CANCELLED}
        with self.sessions() as session:
            running = session.scalars(
                select(Batch.id).where(
                    Batch.model_id.in_([known.id for known in self.models]),
                    Batch.status == BatchStatus.RUNNING,
                )
            ).all()
            return not running and all(one.status in ends for one in self._requests(session))
