"""Versions trained elsewhere: accepted only if they were trained without forgotten records."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from importlib import metadata

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.errors import Conflict, Unavailable, Unprocessable, Withdrawn
from service.ledger.audit import chain
from service.ledger.database import file_locks, locks
from service.ledger.database.states import VersionStatus
from service.ledger.database.tables import Dataset, Import, Model, RecordList, Version
from service.ledger.obligations import shares
from service.ledger.registry import forgotten, lineage, segments, standing, versions
from service.ledger.selection import exclusions, naming, record_lists

#: ``trained_on`` of a version that was trained on the dataset's train split.
SPLIT = "split"

_SHOWN = 100

_SAW_FORGOTTEN = {
    False: "records were forgotten after revision {revision} of dataset {dataset}; train without "
    "them and import with data_revision={current}, or start a training run here",
    True: "the list names records of dataset {dataset} that were forgotten; train without them, "
    "send the list of what was left, and import with that one",
}


def check(
    session: Session,
    model: Model,
    *,
    data_revision: int,
    trained_on: str = SPLIT,
    digest: str | None = None,
    hold: locks.Hold = locks.Hold.INTAKE,
) -> tuple[int, RecordList | None]:
    """Raise unless weights trained on these rows hold no forgotten record.

    ``trained_on`` is ``SPLIT`` for the train split at ``data_revision``, or the id of a record
    list, which needs no revision. Return the revision with which to register the version, and the
    list.

    Stricter than for promotion: a record that a running batch has claimed counts as well, since
    the batch would end on a version that is no longer in production. With the ``digest`` of the
    file, weights that are known to hold forgotten records are refused, whatever revision is
    claimed for them; for unknown weights the service relies on the client's statement.
    """
    dataset = locks.dataset(session, model.dataset_id, hold)
    standing.require_model(model)
    if data_revision > dataset.revision:
        raise Unprocessable(
            f"dataset {dataset.name} is at revision {dataset.revision}; data_revision cannot be "
            "above it",
            field="query.data_revision",
        )
    stated = None
    if trained_on != SPLIT:
        stated = record_lists.get(session, dataset, trained_on)
        data_revision = 0  # the weights saw everything of the list that was ever forgotten
    blocking = _deletions_after(session, dataset, data_revision, stated)
    if blocking:
        raise forgotten.Resurrection(
            _SAW_FORGOTTEN[stated is not None].format(
                revision=data_revision, dataset=dataset.name, current=dataset.revision
            ),
            deletion_requests=blocking,
            data_revision=dataset.revision,
        )
    if digest is not None:
        _refuse_known(session, model, digest)
    return (data_revision if stated is None else dataset.revision), stated


def register(
    session: Session,
    model: Model,
    *,
    digest: str,
    size_bytes: int,
    data_revision: int,
    trained_on: str = SPLIT,
    promote: bool | None,
    is_stored: Callable[[], bool],
    actor: str,
    now: datetime,
) -> Version:
    """Register a candidate, its own anchor, which a worker then measures (``measurements``).

    ``promote`` says whether it goes live after that; None: if nothing else is live by then.
    ``is_stored`` says whether the store has the file; it is asked under the file's lock, because a
    version with the same weights may just be purged. Raise ``Unavailable`` if it has not.
    """
    # Until the end no row may be excluded, and no request recorded that misses the version.
    data_revision, stated = check(
        session,
        model,
        data_revision=data_revision,
        trained_on=trained_on,
        digest=digest,
        hold=locks.Hold.PUBLICATION,
    )
    record_list_id = None if stated is None else stated.id
    versions.lock(session, model)
    file_locks.hold(session, [digest])
    if not is_stored():
        raise Unavailable("these weights were just being destroyed; send them again")
    version = versions.register(
        session,
        model,
        origin="imported",
        digest=digest,
        size_bytes=size_bytes,
        data_revision=data_revision,
        record_list_id=record_list_id,
        seed=0,
        code_version=metadata.version("unlearn"),
        now=now,
        actor=actor,
    )
    chain.append(
        session,
        actor=actor,
        action=chain.Action.VERSION_IMPORTED,
        subject=versions.subject(model, version),
        data={"digest": digest, "data_revision": data_revision, "trained_on": trained_on},
    )
    session.add(Import(version_id=version.id, promote=promote))
    session.flush()
    if model.production_id is None:
        # Requests from before the model held anything now concern it too.
        shares.join(session, model, data_revision=data_revision, now=now)
    return version


def refuse_download(session: Session, model: Model, version: Version) -> None:
    """Raise unless the version's weights may be handed out."""
    standing.require_version(model, version)
    if version.status == VersionStatus.PURGED:
        raise Purged(f"the weights of version {version.number} of {model.name} were destroyed")
    forgotten.refuse(session, model, version)
    if version.status in (VersionStatus.RETIRED, VersionStatus.REJECTED):
        raise Conflict(
            f"version {version.number} of {model.name} is {version.status} and is not handed "
            "out; download the production version"
        )


def may_download(session: Session, model: Model, version: Version) -> bool:
    """Return whether the version's weights may be handed out."""
    try:
        refuse_download(session, model, version)
    except (Conflict, Withdrawn):
        return False
    return True


class Purged(Conflict):
    """The weights are destroyed; the row remains as history."""

    status = 410
    code = "purged"
    title = "It existed and was destroyed"


def _refuse_known(session: Session, model: Model, digest: str) -> None:
    withdrawn = session.scalar(
        select(Version.id)
        .where(Version.digest == digest, Version.withdrawn_at.is_not(None))
        .limit(1)
    )
    if withdrawn is not None:
        raise Conflict(
            "this file is a version that was withdrawn; it is not accepted under any name; "
            "import other weights, or start a training run"
        )
    twins = session.execute(
        select(Version, Model)
        .join(Model, Model.id == Version.model_id)
        .where(Version.digest == digest, Model.dataset_id == model.dataset_id)
    ).all()
    for twin, owner in twins:
        blocking = forgotten.requests_in(session, owner, twin)
        if blocking:
            raise forgotten.Resurrection(
                f"this file is version {twin.number} of {owner.name}, which contains records "
                "forgotten since; start a training run to get weights without them",
                deletion_requests=blocking[:_SHOWN],
            )


def _deletions_after(
    session: Session, dataset: Dataset, data_revision: int, stated: RecordList | None
) -> list[str]:
    """Return ids of the requests that excluded training rows after the revision."""
    wanted = naming.naming(
        exclusions.between(dataset.id, after=data_revision),
        lineage.of_training(
            None if stated is None else stated.id,
            segments.rows_at(session, dataset, data_revision),
        ),
    )
    return list(session.scalars(wanted.limit(_SHOWN)))
