"""Margins of an anchor's training rows: what the policy asks for, and what is stored.

An anchor has one artifact of them: the margins so far while models are trained, then the targets.
Its notes are described in ``service.messages.margins``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from service.ledger.database.tables import Artifact, Model, Version
from service.ledger.registry.policy import Margins, Policy

KIND = "margins"

#: Origins of versions that were trained here, by the model's recipe.
TRAINED_HERE = ("trained", "retrained")
#: Steps of a version's timings in which an anchor is trained: of a training run, or of a batch.
TRAINING_STEPS = ("train", "update")


def kept(session: Session, anchor_id: int) -> Sequence[Artifact]:
    """Return an anchor's artifacts, oldest first; the newest one is used."""
    return session.scalars(
        select(Artifact)
        .where(
            Artifact.version_id == anchor_id,
            Artifact.kind == KIND,
            Artifact.destroyed_at.is_(None),
        )
        .order_by(Artifact.id)
    ).all()


def kept_on_dataset(session: Session, dataset_id: int) -> dict[int, list[Artifact]]:
    """Return the artifacts about rows of a dataset by anchor, oldest first."""
    rows = session.scalars(
        select(Artifact)
        .join(Version, Version.id == Artifact.version_id)
        .join(Model, Model.id == Version.model_id)
        .where(
            Model.dataset_id == dataset_id,
            Artifact.kind == KIND,
            Artifact.destroyed_at.is_(None),
        )
        .order_by(Artifact.id)
    )
    found: dict[int, list[Artifact]] = {}
    for artifact in rows:
        found.setdefault(artifact.version_id, []).append(artifact)
    return found


def is_of(artifact: Artifact | None, asked: Margins) -> bool:
    """Return whether an artifact is of as many splits and folds as the policy asks for."""
    if artifact is None:
        return False
    return (artifact.notes["splits"], artifact.notes["folds"]) == (asked.splits, asked.folds)


def is_missing(session: Session, anchor: Version, asked: Margins) -> bool:
    """Return whether models are still to be trained for an anchor."""
    if not asked.splits or _why_never(anchor, asked) is not None:
        return False
    return not _is_ready(next(reversed(kept(session, anchor.id)), None), asked)


def missing(session: Session, asked: Mapping[int, Margins]) -> list[int]:
    """Return ids of the anchors for which models are still to be trained, by the live versions'.

    Two statements, however many versions: it is asked at every poll.
    """
    anchor = aliased(Version)
    rows = session.execute(
        select(Version.id, anchor)
        .join(anchor, anchor.id == Version.anchor_id)
        .where(Version.id.in_(asked))
        .order_by(Version.id)
    )
    wanted = {
        one.id: asked[live_id] for live_id, one in rows if _why_never(one, asked[live_id]) is None
    }
    if not wanted:
        return []
    newest = {
        artifact.version_id: artifact
        for artifact in session.scalars(
            select(Artifact)
            .where(
                Artifact.version_id.in_(wanted),
                Artifact.kind == KIND,
                Artifact.destroyed_at.is_(None),
            )
            .order_by(Artifact.id)
        )
    }
    return [one for one, theirs in wanted.items() if not _is_ready(newest.get(one), theirs)]


def _is_ready(newest: Artifact | None, asked: Margins) -> bool:
    return newest is not None and is_of(newest, asked) and bool(newest.notes["complete"])


def _why_never(anchor: Version, asked: Margins) -> str | None:
    """Return why an anchor gets no margins, in words; None if it does."""
    if anchor.origin not in TRAINED_HERE:
        return (
            f"version {anchor.number} was imported, and how it was trained is not known; "
            "train the model here"
        )
    seconds = sum(anchor.timings.get(step) or 0.0 for step in TRAINING_STEPS)
    if seconds > asked.max_training_seconds:
        return (
            f"the training of version {anchor.number} took {seconds:.0f} s, longer than "
            "margins.max_training_seconds of the policy; raise that to have them"
        )
    return None


def describe(session: Session, model: Model, live: Version | None) -> dict[str, Any] | None:
    """Return the state of the margins of the live version's anchor; None: the policy has none."""
    asked = Policy.model_validate(model.policy).margins
    if not asked.splits:
        return None
    described = {"state": "waiting", "reason": None, "models": asked.splits * asked.folds}
    if live is None:
        return {**described, **_NOTHING, "reason": "no version is live"}
    anchor = session.get_one(Version, live.anchor_id)
    why = _why_never(anchor, asked)
    if why is not None:
        return {**described, **_NOTHING, "state": "unavailable", "reason": why}
    newest = next(reversed(kept(session, anchor.id)), None)
    if newest is None or not is_of(newest, asked):
        return {**described, **_NOTHING}
    notes = newest.notes
    return {
        **described,
        "state": "ready" if notes["complete"] else "partial",
        "trained": notes["trained"],
        "epochs": notes["epochs"],
        "rows": notes["rows"],
    }


_NOTHING: dict[str, Any] = {"trained": 0, "epochs": 0.0, "rows": 0}
