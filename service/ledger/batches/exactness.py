"""When a batch must be exact, and the method that it then has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from service.ledger.database.tables import Model, Version
from service.ledger.registry import lineage, methods
from service.ledger.registry.policy import Policy


def must_be_exact(session: Session, model: Model) -> bool:
    """Return whether the next batch must be exact because the live version forgot a class.

    An approximate step may bring the class back, and its rows are overwritten in every split, so no
    measurement could show it.
    """
    if model.production_id is None:
        return False
    live = session.get_one(Version, model.production_id)
    return bool(live.whole_classes)


def whole_classes(
    session: Session, base: Version, rows: Mapping[int, int]
) -> tuple[set[int], set[int]]:
    """Return the classes of these rows of which the base has no others, and the other classes."""
    if not rows:
        return set(), set()
    left = lineage.left_of_classes(session, base)
    here = Counter(rows.values())
    whole = {label for label, count in here.items() if count == left.get(label)}
    return whole, set(here) - whole


def leaves_classes(session: Session, model: Model) -> bool:
    """Return whether the method of the model's next batch can forget a class."""
    chosen = model.run_now_method or {"method": Policy.model_validate(model.policy).method}
    found = methods.get(session, chosen["method"])
    return found is not None and found.installed and "class" in found.forgets


def method(session: Session, model: Model, kind: str) -> dict[str, Any]:
    """Return the method of a batch that must be exact: the requested one if exact, or the first.

    See ``methods.exact`` for the order.
    """
    asked = model.run_now_method
    if asked is not None:
        found = methods.get(session, asked["method"])
        if found is not None and found.installed and found.exact and kind in found.forgets:
            return asked
    return methods.first_exact(session, model, [kind]).model_dump()
