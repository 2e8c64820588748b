"""Build the requests to compute processes from one consistent read of the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from models_store import Store
from service.ledger.batches import execution, pools
from service.ledger.database import locks
from service.ledger.database.tables import (
    Artifact,
    Batch,
    BatchRecord,
    Dataset,
    Model,
    Record,
    Version,
)
from service.ledger.obligations import erasures
from service.ledger.registry import (
    datasets,
    forgotten,
    internal_state,
    lineage,
    margins,
    methods,
    segments,
)
from service.ledger.registry.policy import MethodChoice, Policy
from service.ledger.selection import exclusions, naming
from service.messages import parts, unlearn
from workers.jobs import reference_models, row_sets

AUDIT_SPLIT = 2


def model(found: Model) -> parts.Model:
    """Return what a compute process needs to build the model."""
    return parts.Model(
        architecture=parts.Architecture(
            name=found.architecture["name"], parameters=found.architecture["parameters"]
        ),
        input=parts.Input(name=found.input["name"], options=found.input["options"]),
        transform=found.transform,
        recipe=found.recipe,
    )


def view(
    session: Session,
    store: Store,
    dataset: Dataset,
    *,
    rows: int,
    excluded: list[int],
    trained_on: list[int] | None = None,
) -> parts.View:
    """Return the arrays of the dataset's first ``rows`` rows, with their keys if encrypted."""
    arrays = _arrays(session, dataset, rows)
    return parts.View(
        store=store.ticket(*arrays),
        arrays=arrays,
        excluded=excluded,
        trained_on=trained_on,
    )


def _arrays(session: Session, dataset: Dataset, rows: int) -> list[str]:
    return [one.key for one in segments.of(session, dataset, rows=rows)]


def feature_names(session: Session, dataset: Dataset) -> list[str]:
    """Return a table's column names in the order of its array; [] if they are not known."""
    declared = (dataset.source.get("columns") or {}).get("features")
    read = datasets.report(session, dataset)
    columns = [] if read is None else read.columns
    names = declared or [str(one["name"]) for one in columns if one["part"] == "feature"]
    # One array of an NPZ file may hold every feature under one name.
    return names if dataset.shape == [len(names)] else []


def for_batch(
    session: Session,
    store: Store,
    batch: Batch,
    choice: MethodChoice,
    *,
    knows: Mapping[row_sets.Known, int] = row_sets.EVERYTHING,
) -> unlearn.Request:
    """Return the request to unlearn a batch with the method ``choice``.

    ``knows`` is what the compute process was sent before (``row_sets``).
    """
    found = session.get_one(Model, batch.model_id)
    # Locked, so that no row is excluded between reading the revision and the excluded rows.
    dataset = locks.dataset(session, found.dataset_id, locks.Hold.REVISION)
    base = session.get_one(Version, batch.base_version_id)
    policy = Policy.model_validate(found.policy)
    forget = execution.rows(session, batch)
    of_class = batch.kind == "class"
    arrays = _arrays(session, dataset, base.data_rows)
    return unlearn.Request(
        store=store.ticket(*arrays),
        arrays=arrays,
        row_sets=row_sets.unsent(
            session,
            dataset.id,
            revision=dataset.revision,
            record_list_id=base.record_list_id,
            knows=knows,
        ),
        data_revision=dataset.revision,
        model=model(found),
        kind="class" if of_class else "records",
        seed=batch.seed + batch.attempts - 1,
        forget=forget,
        never_seen=_never_seen(session, batch, dataset.id, base) if of_class else [],
        base=unlearn.Version(digest=base.digest, number=base.number),
        anchor=anchor(session, base),
        gates=_gates(policy),
        # A method that limits its own drift uses the policy's budget in place of its own.
        limits=unlearn.Limits(
            max_forgotten_share=policy.drift.max_share,
            max_class_share=policy.drift.max_class_share,
        ),
        lineage_clean=_lineage_is_clean(session, found, base, forget),
        earlier_scores=_earlier_scores(session, base, rows=_missing(policy, batch, forget)),
        references=[]
        if of_class
        else reference_models.digests(session, base, policy, by_class=False),
        class_references=reference_models.digests(session, base, policy, by_class=True)
        if of_class
        else [],
        update_log_bytes=(policy.update_log_megabytes << 20) if policy.keep_update_log else 0,
        choice=method(choice),
        training=None,
    )


def method(choice: MethodChoice) -> unlearn.Choice:
    """Return the policy's choice of a method as a message."""
    return unlearn.Choice(method=choice.method, options=choice.options)


def _gates(policy: Policy) -> dict[str, Any]:
    """Return the policy's gates; their default limit of forgotten shares is its drift budget."""
    return {
        "forgotten_share": policy.drift.max_share,
        "forgotten_class_share": policy.drift.max_class_share,
    } | policy.gates


def anchor(session: Session, version: Version) -> unlearn.Anchor:
    """Return the anchor of a version's chain, with the digests of its internal state."""
    start = session.get_one(Version, version.anchor_id)
    kept = internal_state.newest_by_kind(session, {start.id, version.id})
    log = kept.get((start.id, "logs"))
    targets = kept.get((start.id, margins.KIND))
    return unlearn.Anchor(
        digest=start.digest,
        cache=_digest(kept.get((start.id, "caches"))),
        state=_digest(kept.get((version.id, "states"))),
        statistics=_digest(kept.get((version.id, "statistics"))),
        log=_digest(log),
        margins=targets.digest if targets is not None and targets.notes["complete"] else None,
        # The line search may read earlier rows only while all of them are still stored.
        earlier=_earlier_rows(session, version),
        forgot_before=version.batches_since_anchor > 0,
        taken_back=[] if log is None else _taken_back(session, version),
    )


def _digest(artifact: Artifact | None) -> str | None:
    return None if artifact is None else artifact.digest


def _earlier_rows(session: Session, version: Version) -> list[int]:
    """Return rows forgotten since the anchor; [] as soon as one of them is erased."""
    if not version.batches_since_anchor:
        return []
    dataset_id = session.get_one(Model, version.model_id).dataset_id
    rows = _forgotten_since_anchor(session, version)
    erased = rows.join(Record, Record.row == BatchRecord.row).where(
        Record.dataset_id == dataset_id, Record.erased_at.is_not(None)
    )
    if session.scalar(erased.limit(1)) is not None:
        return []
    return list(session.scalars(rows))


def _taken_back(session: Session, version: Version) -> list[int]:
    """Return rows of the chain whose training steps are no longer in the weights.

    An anchored method steps from the anchor, which contains every step of its training.
    """
    known = methods.announced(session).values()
    from_log = [one.name for one in known if one.requires("update_log")]
    from_anchor = [one.name for one in known if one.requires("anchor")]
    rows = _forgotten_since_anchor(session, version).where(Version.method.in_(from_log))
    stepped = select(func.max(Version.number)).where(
        lineage.since_anchor(session, version, Version), Version.method.in_(from_anchor)
    )
    return list(session.scalars(rows.where(Version.number > (session.scalar(stepped) or 0))))


def _forgotten_since_anchor(session: Session, version: Version) -> Select[int]:
    return (
        select(BatchRecord.row)
        .join(Version, Version.batch_id == BatchRecord.batch_id)
        .where(lineage.since_anchor(session, version, Version))
    )


def _never_seen(session: Session, batch: Batch, dataset_id: int, base: Version) -> list[int]:
    """Return audit rows that the batch names, that the base never saw and that are not erased.

    Of the rows that the dataset had when the base's anchor was trained: on these it is measured.
    """
    named = session.scalars(
        select(Record.row)
        .where(
            Record.dataset_id == dataset_id,
            Record.split == AUDIT_SPLIT,
            Record.row < base.data_rows,
            naming.asked(erasures.of_batch(batch)),
            Record.erased_at.is_(None),
        )
        .order_by(Record.row)
    )
    seen = set(execution.rows(session, batch))
    return [row for row in named if row not in seen]


def _lineage_is_clean(session: Session, found: Model, base: Version, forget: list[int]) -> bool:
    """Return whether the base holds nothing forgotten earlier except this batch's rows.

    Only a new anchor that catches up owes anything, and then exactly the rows of its batch.
    """
    clean = base.clean_revision
    just_now = exclusions.just_excluded(session, found.dataset_id, after=clean, revision=clean + 1)
    if just_now is not None and set(just_now) <= set(forget):
        return True
    # Excluded rows first: mostly they are the batch's rows, and their requests need no lookup.
    inside = select(Record.row).where(
        Record.dataset_id == found.dataset_id, lineage.contained_and_excluded(session, base)
    )
    if set(session.scalars(inside)) <= set(forget):
        return True
    return set(session.scalars(forgotten.owed(session, found, base))) <= set(forget)


def _missing(policy: Policy, batch: Batch, forget: list[int]) -> int:
    """Return how many rows the batch lacks to be judged alone; a class is never pooled."""
    return pools.rows_wanted(policy) - len(forget) if batch.kind == "records" else 0


def _earlier_scores(session: Session, base: Version, *, rows: int) -> list[str]:
    """Return digests of the scores to pool with a batch on ``base`` that lacks ``rows`` rows."""
    return [kept.digest for kept in pools.scores(session, base, rows=rows)]
