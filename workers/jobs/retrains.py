"""Batches that train: their state is kept after epochs, and resumed if another worker takes over.

A method's announcement says whether it trains. One that does not report its epochs
(``Context.kept``) starts again from the beginning.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from service.ledger.batches import batch_states, leases
from service.ledger.database.tables import Batch, Model, Version
from service.messages.parts import Kept
from service.messages.unlearn import Progress, Request, Resumable
from workers.compute.process import Stopping
from workers.fault_points import reach
from workers.jobs import kept_states, row_sets
from workers.runtime import Runtime


def begin(runtime: Runtime, held: leases.Held, batch_id: str, request: Request) -> Request:
    """Return the request of a training with what it needs to keep its state, or to resume one.

    A resumed training has the seed and the rows that it began with: rows that other models' batches
    excluded meanwhile are owed by this model, too, and forgotten by its next batch. A state that
    cannot be resumed is destroyed.
    """
    training = Resumable(
        owner=batch_id, keep_seconds=runtime.settings.training_state_seconds, resume=None
    )
    request = replace(request, training=training)
    with runtime.session() as session:
        leases.hold(session, held)
        batch = session.get_one(Batch, batch_id)
        state = batch_states.resumable(session, batch, asdict(request.choice))
        if state is None:
            batch_states.give_up(session, batch_id=batch_id)
        else:
            request = replace(
                request,
                training=replace(training, resume=state.digest),
                seed=state.seed,
                data_revision=state.data_revision,
                row_sets=row_sets.unsent(
                    session,
                    session.get_one(Model, batch.model_id).dataset_id,
                    revision=state.data_revision,
                    record_list_id=session.get_one(Version, batch.base_version_id).record_list_id,
                ),
            )
    destroy_left(runtime, batch_id)
    return request


def end(runtime: Runtime, batch_id: str) -> None:
    """Destroy the training's state, once it has ended in any way."""
    with runtime.session() as session:
        batch_states.give_up(session, batch_id=batch_id)
    destroy_left(runtime, batch_id)


def destroy_left(runtime: Runtime, batch_id: str) -> None:
    """Destroy states that will not be resumed, and the batch's states that were never recorded."""
    kept_states.destroy_left(runtime)
    with runtime.session() as session:
        noted = batch_states.of(session, batch_id)
    kept_states.destroy_strays(runtime, batch_id, noted=noted)


@dataclass
class Keeping:
    """Records the states that a batch's training keeps while it computes."""

    runtime: Runtime
    held: leases.Held
    batch_id: str
    request: Request

    def seen(self, progress: Progress) -> None:
        """Record a state; raise ``Stopping`` if the worker stops, as the work is now kept."""
        if not isinstance(progress, Kept):
            return
        with self.runtime.session() as session:
            before = batch_states.keep(
                session,
                session.get_one(Batch, self.batch_id),
                held=self.held,
                digest=progress.digest,
                method=asdict(self.request.choice),
                seed=self.request.seed,
                data_revision=self.request.data_revision,
            )
        if before is not None:
            kept_states.destroy(self.runtime, before)
        reach("batch.kept")
        if self.runtime.stop.is_set():
            raise Stopping("the worker is stopping; the batch will be resumed")
