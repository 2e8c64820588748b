"""Figures of a model's versions beside each other, as each of them may be read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger.database.tables import Verification
from service.ledger.reports import declarations, disclosure

#: The metric of how well the loss tells forgotten records from never-seen ones.
ATTACK = "membership_auc"
#: The set of which the accuracy is shown.
NEVER_SEEN = "audit"


@dataclass(frozen=True)
class Figures:
    """Of one version; None: not measured, or withheld.

    ``accuracy``: share of right answers on never-seen records. ``attack``: AUC of the attack by
    loss on the records that it forgot.
    """

    accuracy: float | None
    attack: float | None


def of(session: Session, version_ids: Iterable[int], *, everything: bool) -> dict[int, Figures]:
    """Return figures of the versions that were verified; ``everything``: for an auditor.

    Only the parts of a verification that decide about these figures are read: whole ones of a
    page's versions would be more than a megabyte.
    """
    measured = Verification.measured
    rows = session.execute(
        select(
            Verification.version_id,
            Verification.set_changes,
            measured["sets"],
            measured["pooled"],
            measured[("metrics", ATTACK)],
            measured[(declarations.MEMBER, "metrics")],
        ).where(Verification.version_id.in_(list(version_ids)))
    )
    found = {}
    for version_id, changes, sets, pooled, attack, declared in rows:
        document: dict[str, Any] = {"sets": sets or {}, "pooled": pooled}
        if attack is not None:
            document["metrics"] = {ATTACK: attack}
        if declared is not None:  # else it is of an earlier release, whose rules are known
            document[declarations.MEMBER] = {"metrics": declared, "gates": {}}
        shown = document if everything else disclosure.measured(document, changes)
        found[version_id] = Figures(
            accuracy=_accuracy(shown["sets"]),
            attack=_number((shown.get("metrics") or {}).get(ATTACK), "value"),
        )
    return found


def _accuracy(sets: Mapping[str, Any]) -> float | None:
    """Return the version's own accuracy; of an exact one there are no other models beside it."""
    return _number(sets.get("unlearned", sets).get(NEVER_SEEN), "accuracy")


def _number(figures: Any, member: str) -> float | None:
    value = figures.get(member) if isinstance(figures, Mapping) else None
    return float(value) if isinstance(value, int | float) else None
