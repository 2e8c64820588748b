"""Kept states of training runs and of retrains in batches: destroy them when these have ended."""

from __future__ import annotations

from models_store import errors
from service.ledger.batches import batch_states
from service.ledger.database.tables import TrainingRun
from service.ledger.training import run_states
from workers.runtime import Runtime


def destroy(runtime: Runtime, digest: str) -> None:
    """Overwrite and remove a state; do nothing if there is none."""
    runtime.store.blobs.delete("trainings", digest)


def destroy_strays(runtime: Runtime, owner: str, *, noted: str | None) -> None:
    """Destroy states that an ended computation stored and no worker recorded.

    ``owner`` is the id of the training run or batch, ``noted`` the digest of the state that stays.
    """
    for digest in runtime.store.blobs.digests("trainings"):
        try:
            of = runtime.store.blobs.manifest("trainings", digest).get("owner")
        except (errors.Corrupt, errors.NotStored):
            continue  # the sweep removes damaged files
        if of == owner and digest != noted:
            destroy(runtime, digest)


def destroy_left(runtime: Runtime) -> bool:
    """Destroy the kept states of trainings that have ended in any way; True if there were any."""
    with runtime.session() as session:
        of_runs, of_batches = run_states.left(session), batch_states.left(session)
    # The file first: after a crash in between, destroying it again does nothing.
    for run_id, digest in of_runs:
        destroy(runtime, digest)
        with runtime.session() as session:
            run = session.get_one(TrainingRun, run_id)
            run_states.destroyed(session, run, digest=digest, actor=runtime.actor)
    for batch_id, digest in of_batches:
        destroy(runtime, digest)
        with runtime.session() as session:
            batch_states.destroyed(session, batch_id, digest=digest, actor=runtime.actor)
    return bool(of_runs or of_batches)
