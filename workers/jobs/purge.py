"""Destroy versions and internal state that hold erased data once due; sweep orphaned files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

from sqlalchemy.orm import Session

from models_store import errors
from models_store.protocols import Rows
from service.ledger.audit.signing import Signer
from service.ledger.batches import leases
from service.ledger.database import db, file_locks
from service.ledger.database.tables import Dataset, Model, Version
from service.ledger.destruction import purges, stored_files, superseded
from service.ledger.registry import segments, versions
from service.ledger.requests import idempotency
from service.ledger.webhooks import outbox
from workers.fault_points import reach
from workers.runtime import Runtime

log = logging.getLogger(__name__)

SWEEP_LEASE = "sweep"
#: How long an Idempotency-Key gives the same answer: clients retry within a shorter time.
IDEMPOTENCY_MEMORY = timedelta(days=30)


def run_due(runtime: Runtime) -> bool:
    """Purge versions that are due, and withdrawn models that have no versions left."""
    done = False
    with runtime.session() as session:
        due = purges.due(session, now=runtime.now())
    for version_id in due:
        with runtime.lease(key(version_id)) as held:
            if held is not None:
                done |= _purge(runtime, version_id, held)
    done |= _destroy_superseded(runtime)
    return _purge_models(runtime) or done


def key(version_id: int) -> str:
    """Return the lease under which files of a version are destroyed."""
    return f"purge:{version_id}"


def sweep(runtime: Runtime) -> None:
    """Remove files without a reference, at most once per quarter of the grace period."""
    grace = runtime.settings.orphan_grace_seconds
    with runtime.session() as session:
        if not leases.is_free(db.read_only(session), SWEEP_LEASE, now=runtime.now()):
            return
    with runtime.session() as session:
        # Never released: the next sweep is due when the lease expires.
        held = leases.acquire(
            session, SWEEP_LEASE, owner=runtime.owner, seconds=grace / 4, now=runtime.now()
        )
        if held is None:
            return
        keep, being_written = stored_files.files_in_use(session), segments.being_written(session)
        outbox.forget_old(session, now=runtime.now())
        idempotency.prune(session, before=runtime.now() - IDEMPOTENCY_MEMORY)
    blobs = runtime.store.blobs
    for kind in stored_files.KINDS:
        orphans = [one for one in blobs.old(kind, seconds=grace) if one not in keep[kind]]
        gone = [one for one in orphans if destroy_orphan(runtime, kind, one)]
        gone += blobs.sweep(kind, keep=blobs.digests(kind), older_than_seconds=grace)
        if gone:
            log.info("swept %d orphaned %s", len(gone), kind)
    rows = runtime.store.rows
    # The records of a long ingest or append may take longer than the grace.
    unused = set(rows.keys()) - keep["arrays"] if being_written else set()
    new = {one for one in unused if _name(rows, one) in being_written}
    rows.sweep(keep=keep["arrays"] | new, older_than_seconds=grace)


def _name(rows: Rows, key: str) -> str | None:
    """Return the name under which an array was written; None if it cannot be read or is gone."""
    try:
        return rows.name(key)
    except (errors.Corrupt, errors.NotStored):
        return None


def destroy_orphan(runtime: Runtime, kind: stored_files.Kind, digest: str) -> bool:
    """Destroy a file unless a version refers to it by now."""
    with runtime.session() as session:
        file_locks.hold(session, [digest])
        if stored_files.is_in_use(session, kind, digest):
            return False
        runtime.store.blobs.unlink(kind, digest)
    runtime.store.blobs.discard(kind, digest)
    return True


def _destroy_superseded(runtime: Runtime) -> bool:
    """Destroy internal state that no batch needs any more; versions keep their weights."""
    with runtime.session() as session:
        found = [
            version_id
            for model_id in superseded.models(session)
            for version_id in superseded.of_model(session, session.get_one(Model, model_id))
        ]
    done = False
    for version_id in found:
        with runtime.lease(key(version_id)) as held:
            if held is not None:
                done |= _destroy_state(runtime, version_id, held)
    return done


def _destroy_state(runtime: Runtime, version_id: int, held: leases.Held) -> bool:
    with runtime.session() as session:
        model = session.get_one(Model, session.get_one(Version, version_id).model_id)
        going = superseded.of_model(session, model).get(version_id)
    if not going:
        return False  # another worker did it before this one got the lease
    destroy_artifacts(runtime, version_id, going, held)
    return True


def destroy_artifacts(
    runtime: Runtime, version_id: int, artifact_ids: Sequence[int], held: leases.Held
) -> None:
    """Destroy internal state of a version, which keeps its weights."""
    record = partial(purges.record_state, artifact_ids=artifact_ids)
    files_of = partial(stored_files.files_of, artifact_ids=artifact_ids)
    _destroy(runtime, version_id, files_of, held, record, weights_kept=True)


def _purge(runtime: Runtime, version_id: int, held: leases.Held) -> bool:
    with runtime.session() as session:
        if version_id not in purges.due(session, now=runtime.now()):
            return False  # another worker did it before this one got the lease

    def files_of(session: Session) -> list[tuple[stored_files.Kind, str]]:
        return purges.files_of_version(session, session.get_one(Version, version_id))

    _destroy(runtime, version_id, files_of, held, purges.record)
    return True


def _destroy(
    runtime: Runtime,
    version_id: int,
    files_of: Callable[[Session], list[tuple[stored_files.Kind, str]]],
    held: leases.Held,
    record: Callable[..., None],
    **said: bool,
) -> None:
    """Destroy files, then update the ledger: a crash in between is repeated without harm."""
    files = _unlinked(runtime, files_of, held)
    for kind, digest in files:
        runtime.store.blobs.discard(kind, digest)
    reach("purge.destroyed")
    with runtime.session() as session:
        leases.hold(session, held)
        version = session.get_one(Version, version_id)
        model = session.get_one(Model, version.model_id)
        record(
            session,
            model,
            version,
            receipt=_receipt(runtime, session, model, version, files, **said),
            actor=runtime.actor,
            now=runtime.now(),
        )


def _unlinked(
    runtime: Runtime,
    files_of: Callable[[Session], list[tuple[stored_files.Kind, str]]],
    held: leases.Held,
) -> list[tuple[stored_files.Kind, str]]:
    """Take files out of the store while nothing can begin to refer to them; return them."""
    with runtime.session() as session:
        leases.hold(session, held)
        going = files_of(session)
        file_locks.hold(session, [digest for _, digest in going])
        # Again, under the locks: a version with the same content may have been recorded before.
        still = set(files_of(session))
        files = [file for file in going if file in still]
        for kind, digest in files:
            runtime.store.blobs.unlink(kind, digest)
    return files


def _purge_models(runtime: Runtime) -> bool:
    with runtime.session() as session:
        finished = purges.finished_models(session)
        for model in finished:
            receipt = _signed(
                runtime,
                {
                    "model": model.name,
                    "dataset": session.get_one(Dataset, model.dataset_id).name,
                    "versions": purges.versions_of(session, model),
                    "withdrawn_at": model.withdrawn_at,
                },
            )
            purges.record_model(
                session, model, receipt=receipt, actor=runtime.actor, now=runtime.now()
            )
    return bool(finished)


def _receipt(
    runtime: Runtime,
    session: Session,
    model: Model,
    version: Version,
    files: Sequence[tuple[stored_files.Kind, str]],
    **said: bool,
) -> dict[str, Any]:
    """Return a signed receipt of what was destroyed."""
    dataset = session.get_one(Dataset, model.dataset_id)
    return _signed(
        runtime,
        {
            "version": versions.subject(model, version),
            "dataset": dataset.name,
            "destroyed": [{"kind": kind, "digest": digest} for kind, digest in files],
            "retired_at": version.retired_at,
            "withdrawn_at": version.withdrawn_at,
            **said,
        },
    )


def _signed(runtime: Runtime, receipt: dict[str, Any]) -> dict[str, Any]:
    return Signer.from_settings(runtime.settings).sign(
        {"type": "purge-receipt", **receipt, "purged_at": runtime.now()}
    )
