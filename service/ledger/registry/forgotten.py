"""Which forgotten records a version still contains.

A version contains a record if the record was training data of the version's anchor and no batch
between the anchor and the version forgot it. This alone decides whether a version may go live.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, literal, or_, select, union_all
from sqlalchemy.orm import Session

from service.errors import Conflict
from service.ledger.database.states import ErasureStatus
from service.ledger.database.tables import Erasure, Model, Record, Version
from service.ledger.obligations import shares
from service.ledger.registry import lineage
from service.ledger.selection import naming

#: Number of versions that one statement checks.
_ASKED_AT_ONCE = 20


class Resurrection(Conflict):
    """The weights still contain a forgotten record, so they may not go live or be handed out."""

    code = "would-resurrect"
    title = "This version still contains forgotten records"


def owed(session: Session, model: Model, version: Version) -> Select[Any]:
    """Select the ``Record`` rows that the version contains and must not.

    These are excluded from training, unless every erasure of them on this model is still open: open
    erasures will be done on whichever version is live then. A record that was forgotten once stays
    owed, even if a later request names it again.
    """
    return select(Record.row).where(_owed(session, model, version))


def _owed(session: Session, model: Model, version: Version) -> ColumnElement[bool]:
    ours = Erasure.model_id == model.id
    still_open = naming.asked(ours, shares.is_open())
    done_before = naming.asked(ours, Erasure.status == ErasureStatus.COMPLETED)
    return and_(
        Record.dataset_id == model.dataset_id,
        lineage.contained_and_excluded(session, version),
        or_(~still_open, done_before),
    )


def is_in(session: Session, model: Model, version: Version) -> bool:
    """Return whether the version contains a record that it must not."""
    return bool(holding(session, model, [version]))


def holding(session: Session, model: Model, found: Sequence[Version]) -> set[int]:
    """Return ids of those of the model's versions that contain a record that they must not."""
    holding: set[int] = set()
    for first in range(0, len(found), _ASKED_AT_ONCE):
        asked = [
            select(literal(version.id)).where(owed(session, model, version).exists())
            for version in found[first : first + _ASKED_AT_ONCE]
        ]
        holding |= set(session.scalars(union_all(*asked)))
    return holding


def requests_in(session: Session, model: Model, version: Version) -> list[str]:
    """Return ids of deletion requests whose records the version still contains; [] if none."""
    return list(session.scalars(naming.naming(_owed(session, model, version))))


def refuse(session: Session, model: Model, version: Version) -> None:
    """Raise ``Resurrection`` if the version still contains a forgotten record."""
    if is_in(session, model, version):
        named = requests_in(session, model, version)
        raise Resurrection(
            f"version {version.number} of {model.name} still contains records forgotten by "
            f"{len(named)} deletion request(s); use the production version, or start a "
            "training run to get an exact one",
            deletion_requests=named[:100],
        )
