"""State machines: the only place where the state of an existing row is assigned.

A machine per kind of row knows its allowed moves. A transaction that moves a state without adding a
line to the audit chain cannot be committed. So a reader that follows the chain by line numbers
learns of every move, in order, once it is committed and not before: the chain serves as the
ledger's outbox, and a second table would only duplicate it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from sqlalchemy import Update, event, update
from sqlalchemy.orm import Session, SessionTransaction, object_session

from service.ledger.audit import chain
from service.ledger.database import db
from service.ledger.database.states import (
    APPEND_MOVES,
    BATCH_MOVES,
    DATASET_MOVES,
    ENCODER_MOVES,
    ERASURE_MOVES,
    INSPECTION_MOVES,
    REOPENED_ERASURES,
    REOPENED_REQUESTS,
    REQUEST_MOVES,
    RUN_MOVES,
    VERSION_MOVES,
    WEBHOOK_MOVES,
    AppendStatus,
    BatchStatus,
    DatasetStatus,
    EncoderStatus,
    ErasureStatus,
    InspectionStatus,
    RequestStatus,
    RunStatus,
    State,
    VersionStatus,
    WebhookStatus,
    check_move,
)
from service.ledger.database.tables import (
    Batch,
    Dataset,
    DatasetAppend,
    DatasetInspection,
    DeletionRequest,
    Encoder,
    Erasure,
    TrainingRun,
    Version,
    Webhook,
)

Row = TypeVar("Row", bound=db.Base)

_MOVED = "moved"


class UnauditedMove(RuntimeError):
    """A transaction moved a state without a line in the audit chain: a programming error."""


class Machine(Generic[Row, State]):
    """The states of one kind of row. ``audited``: each move requires a line of the audit chain."""

    def __init__(
        self, kind: type[Row], moves: Mapping[State, frozenset[State]], *, audited: bool = True
    ) -> None:
        self._kind: Any = kind
        self._moves, self._audited = moves, audited

    def move(self, row: Row, new: State) -> None:
        """Give the row a new state; raise ``IllegalMove`` if the move is not allowed."""
        known: Any = row  # whose column holds these states
        check_move(self._moves, known.status, new)
        known.status = new
        session = object_session(row)
        if session is not None:
            self._note(session)

    def update(self, session: Session, new: State, **values: Any) -> Update:
        """Return the UPDATE that moves all rows that may become ``new``; callers add conditions."""
        self._note(session)
        before = [old for old, nexts in self._moves.items() if new in nexts]
        return update(self._kind).where(self._kind.status.in_(before)).values(status=new, **values)

    def met_nothing(self, session: Session) -> None:
        """Take back that a state moved, of an ``update`` that has met no row."""
        if self._audited:
            session.info[_MOVED] -= 1

    def _note(self, session: Session) -> None:
        if self._audited:
            session.info[_MOVED] = session.info.get(_MOVED, 0) + 1


appends: Machine[DatasetAppend, AppendStatus] = Machine(DatasetAppend, APPEND_MOVES)
batches: Machine[Batch, BatchStatus] = Machine(Batch, BATCH_MOVES)
datasets: Machine[Dataset, DatasetStatus] = Machine(Dataset, DATASET_MOVES)
encoders: Machine[Encoder, EncoderStatus] = Machine(Encoder, ENCODER_MOVES)
erasures: Machine[Erasure, ErasureStatus] = Machine(Erasure, ERASURE_MOVES)
requests: Machine[DeletionRequest, RequestStatus] = Machine(DeletionRequest, REQUEST_MOVES)
runs: Machine[TrainingRun, RunStatus] = Machine(TrainingRun, RUN_MOVES)
versions: Machine[Version, VersionStatus] = Machine(Version, VERSION_MOVES)
webhooks: Machine[Webhook, WebhookStatus] = Machine(Webhook, WEBHOOK_MOVES)
#: Dry runs, which are removed after an hour and change nothing else, so they need no audit line.
inspections: Machine[DatasetInspection, InspectionStatus] = Machine(
    DatasetInspection, INSPECTION_MOVES, audited=False
)

#: Moves by which the reconciler, and nothing else, opens erasures that a check found not done.
reopened_erasures: Machine[Erasure, ErasureStatus] = Machine(Erasure, REOPENED_ERASURES)
reopened_requests: Machine[DeletionRequest, RequestStatus] = Machine(
    DeletionRequest, REOPENED_REQUESTS
)


@event.listens_for(Session, "before_commit")
def _refuse_unaudited(session: Session) -> None:
    if session.info.get(_MOVED) and not session.in_nested_transaction() and not chain.adds(session):
        raise UnauditedMove("a state moved in this transaction without a line in the audit chain")


@event.listens_for(Session, "after_transaction_end")
def _forget(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.info.pop(_MOVED, None)
