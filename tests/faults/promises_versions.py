"""What must hold of versions: their chains, what is live, what may have been, what is destroyed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger.audit import chain
from service.ledger.batches import holds
from service.ledger.database.states import VersionStatus
from service.ledger.database.tables import (
    AliasMove,
    AuditEvent,
    BatchRecord,
    Model,
    Verification,
    Version,
)
from service.ledger.destruction import stored_files
from service.ledger.registry import forgotten, lineage
from tests.faults.fleet import Fleet
from tests.faults.kinds import Broken, Kind, of

#: Verdicts with which a version may be live.
GOOD = {"passed", "no_power", "exact", "imported"}


def broken(fleet: Fleet, session: Session) -> list[Broken]:
    """Every promise about versions that does not hold."""
    found = [
        *of(Kind.REPEATED, _forgotten_twice(session)),
        *of(Kind.STILL_LIVE, _reopened(session)),
        *of(Kind.RESURRECTED, _weights(fleet, session)),
    ]
    for model in session.scalars(select(Model).order_by(Model.id)):
        found += of(Kind.OTHER, _chains(session, model))
        found += of(Kind.STILL_LIVE, _still_live(session, model))
        found += of(Kind.OTHER, _production(session, model))
    return found


def _chains(session: Session, model: Model) -> list[str]:
    """Numbers without gaps; the promoted versions of one anchor follow each other in one line."""
    found = []
    its = session.scalars(
        select(Version).where(Version.model_id == model.id).order_by(Version.number)
    ).all()
    if [one.number for one in its] != list(range(1, len(its) + 1)):
        found.append(f"version numbers of {model.name} have gaps")
    known = {one.id: one for one in its}
    promoted = set(session.scalars(select(AliasMove.version_id)))
    followers: dict[int, list[int]] = defaultdict(list)
    for one in its:
        if one.origin != "unlearned" or one.id not in promoted:
            continue
        assert one.parent_id is not None
        if known[one.parent_id].anchor_id != one.anchor_id:
            found.append(f"version {one.number} steps from another anchor than its parent's")
        followers[one.parent_id].append(one.number)
    return found + [
        f"versions {numbers} of {model.name} both follow version {known[parent].number}"
        for parent, numbers in followers.items()
        if len(numbers) > 1
    ]


def _forgotten_twice(session: Session) -> list[str]:
    """No chain of versions forgets a record more than once."""
    found = []
    promoted = set(session.scalars(select(AliasMove.version_id)))
    for version in session.scalars(select(Version).where(Version.id.in_(promoted))):
        chain = lineage.batch_chain(session, version)
        rows = session.scalars(select(BatchRecord.row).where(BatchRecord.batch_id.in_(chain)))
        twice = [row for row, times in Counter(rows).items() if times > 1]
        if twice:
            found.append(f"the chain of version {version.number} forgets rows {twice} twice")
    return found


def _reopened(session: Session) -> Iterable[str]:
    """No check has had to repair a completed request."""
    repaired = session.scalars(
        select(AuditEvent.subject).filter_by(action=chain.Action.DELETION_REQUEST_REOPENED)
    )
    return (f"{one} was completed too early" for one in repaired)


def _still_live(session: Session, model: Model) -> list[str]:
    """What production points at holds no forgotten record."""
    if model.production_id is None:
        return []
    live = session.get_one(Version, model.production_id)
    held = forgotten.requests_in(session, model, live)
    return [f"production of {model.name} holds the records of {held}"] if held else []


def _production(session: Session, model: Model) -> list[str]:
    """The alias moved without a break, and only ever to a version that may be live."""
    found = []
    before = None
    moves = select(AliasMove).where(AliasMove.model_id == model.id).order_by(AliasMove.id)
    for move in session.scalars(moves):
        if move.previous_id != before:
            found.append(f"move {move.id} of production starts at a version it did not point to")
        before = move.version_id
        if before is None:  # withdrawn, and nothing in its place
            continue
        judged = session.scalar(select(Verification).filter_by(version_id=before))
        if judged is None or not (judged.verdict in GOOD or _decided_on(session, before)):
            found.append(f"production pointed at version id {before}, not verified")
    if before != model.production_id:
        found.append(f"production of {model.name} does not point where its history says")
    return found


def _decided_on(session: Session, version_id: int) -> bool:
    """Whether it was trained anew and lost accuracy, and nothing else.

    Such a one goes live when somebody approves it, or when its hold ends (``promises_operators``).
    """
    version = session.get_one(Version, version_id)
    return version.origin == "retrained" and version.mark == holds.ACCURACY


def _weights(fleet: Fleet, session: Session) -> list[str]:
    """Weights of purged versions are gone."""
    in_use = stored_files.files_in_use(session)["checkpoints"]
    return [
        f"version {version.number} is purged and its weights are there"
        for version in session.scalars(select(Version).filter_by(status=VersionStatus.PURGED))
        if version.digest not in in_use and fleet.store.blobs.exists("checkpoints", version.digest)
    ]
