"""The reference models of an anchor: how many there are to be, and which there are."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger.database.tables import Artifact, Version
from service.ledger.registry.policy import Policy


def digests(session: Session, base: Version, policy: Policy, *, by_class: bool) -> list[str]:
    """Return the digests of the anchor's reference models of a kind; [] until all of them exist.

    Those drawn by row were trained on half of every class, so they say nothing about forgetting a
    class.
    """
    assert base.anchor_id is not None
    count = counts(policy, _classes(session, base.anchor_id))[by_class]
    found = _stored(session, base.anchor_id, count, by_class=by_class)
    return [found[index] for index in range(count)] if len(found) == count else []


def missing(session: Session, anchor_id: int, policy: Policy) -> list[tuple[bool, int, int]]:
    """Return the reference models that the policy asks for and that are missing.

    Each as whether it is drawn by class, its number, and how many there are to be of its kind.
    """
    found = []
    for by_class, count in counts(policy, _classes(session, anchor_id)).items():
        there = _stored(session, anchor_id, count, by_class=by_class)
        found += [(by_class, index, count) for index in range(count) if index not in there]
    return found


def counts(policy: Policy, classes: int) -> dict[bool, int]:
    """Return how many reference models to train, by whether they are drawn by class.

    One alone would leave out every other row, or all classes: it counts as two.
    """
    rows, whole = (
        max(wanted, 2) if wanted else 0
        for wanted in (policy.reference_models, policy.class_references)
    )
    return {False: rows, True: min(whole, classes) if classes > 1 else 0}


def _classes(session: Session, anchor_id: int) -> int:
    """Return how many classes an anchor tells apart."""
    return len(session.get_one(Version, anchor_id).trained_classes or {})


def _stored(session: Session, anchor_id: int, count: int, *, by_class: bool) -> dict[int, str]:
    """Return digests by number, of models of a kind that were drawn for so many of them."""
    if not count:
        return {}
    kept = session.scalars(
        select(Artifact).where(
            Artifact.version_id == anchor_id,
            Artifact.kind == "references",
            Artifact.destroyed_at.is_(None),
        )
    )
    return {
        one.notes["index"]: one.digest
        for one in kept
        # Models that are older than those by class have no such note.
        if (one.notes["count"], one.notes.get("by_class", False)) == (count, by_class)
    }
