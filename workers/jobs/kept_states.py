"""Kept states of training runs and of retrains inside batches: destroyed when these are over."""

from __future__ import annotations

from models_store import errors
from service.ledger.batches import batch_states
from service.ledger.database.tables import TrainingRun
from service.ledger.training import runs
from workers.runtime import Runtime


def destroy(runtime: Runtime, digest: str) -> None:
    """Overwrite and remove a state; nothing happens where there is none."""
    runtime.store.blobs.delete("trainings", digest)


def destroy_strays(runtime: Runtime, owner: str, *, noted: str | None) -> None:
    """Destroy the states that an ended computation stored and that no worker noted any more.

    ``owner`` is the id of the training run or batch, ``noted`` the digest of the state that stays.
    """
    for digest in runtime.store.blobs.digests("trainings"):
        try:
            of = runtime.store.blobs.manifest("trainings", digest).get("owner")
        except (errors.Corrupt, errors.NotStored):
            continue  # the sweep takes what is damaged
        if of == owner and digest != noted:
            destroy(runtime, digest)


def destroy_left(runtime: Runtime) -> bool:
    """Destroy the kept states of trainings that have ended, however they did."""
    with runtime.session() as session:
        of_runs, of_batches = runs.left_states(session), batch_states.left(session)
    # The file first: a crash between the two destroys nothing twice.
    for run_id, digest in of_runs:
        destroy(runtime, digest)
        with runtime.session() as session:
            run = session.get_one(TrainingRun, run_id)
            runs.state_destroyed(session, run, digest=digest, actor=runtime.actor)
    for batch_id, digest in of_batches:
        destroy(runtime, digest)
        with runtime.session() as session:
            batch_states.destroyed(session, batch_id, digest=digest, actor=runtime.actor)
    return bool(of_runs or of_batches)
