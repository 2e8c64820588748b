"""Announcements of unlearning methods, and which method an exact batch uses.

No code compares methods' names: what a method can do, needs and guarantees is declared in its own
file and announced (``capabilities``). It stays known when no worker has it any more, since versions
that it made remain.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger.database.tables import Capability, Model
from service.ledger.registry.policy import LAST_RESORT, MethodChoice, Policy


@dataclass(frozen=True)
class Announced:
    """A method as its workers announced it."""

    name: str
    #: Kinds of forgetting: records, class.
    forgets: frozenset[str]
    #: exact, certified or empirical.
    guarantee: str
    #: step or training.
    cost: str
    #: {anchor, update_log or statistics: the kinds of forgetting that need it}.
    needs: Mapping[str, frozenset[str]]
    #: Whether the worker that announced itself last has it.
    installed: bool

    @property
    def exact(self) -> bool:
        """Return whether its result cannot depend on the forgotten rows."""
        return self.guarantee == "exact"

    @property
    def trains(self) -> bool:
        """Return whether it takes as long as a training."""
        return self.cost == "training"

    def requires(self, need: str, kind: str | None = None) -> bool:
        """Return whether it needs this, for one kind of forgetting or for any."""
        kinds = self.needs.get(need, frozenset())
        return bool(kinds) if kind is None else kind in kinds


def of(row: Capability) -> Announced:
    """Return an announcement as read from its row; those of old workers have fewer fields."""
    said = row.details
    stated = said.get("guarantee")
    guarantee = stated if stated in ("exact", "certified") else "empirical"
    return Announced(
        name=row.name,
        forgets=frozenset(said.get("forgets", ("records",))),
        guarantee=guarantee,
        cost=str(said.get("cost", "training" if guarantee == "exact" else "step")),
        needs={need: frozenset(kinds) for need, kinds in said.get("needs", {}).items()},
        installed=row.removed_at is None,
    )


def announced(session: Session) -> dict[str, Announced]:
    """Return every method that was ever announced, by name."""
    rows = session.scalars(select(Capability).where(Capability.kind == "method"))
    return {row.name: of(row) for row in rows}


def get(session: Session, name: str) -> Announced | None:
    """Return a method; None if no worker has ever announced it."""
    row = session.get(Capability, ("method", name))
    return None if row is None else of(row)


def exact(
    known: Mapping[str, Announced], policy: Policy, kinds: Collection[str]
) -> list[MethodChoice]:
    """Return the methods of a batch that must be exact, in the order in which they are tried.

    These are the policy's methods that are announced as exact and can do these kinds of forgetting,
    in the policy's order and with its options; the default's ``LAST_RESORT`` comes last, unless it
    is among them.
    """
    chosen = [
        choice
        for choice in policy.choices()
        if (found := known.get(choice.method)) is not None
        and found.installed
        and found.exact
        and found.forgets.issuperset(kinds)
    ]
    last = MethodChoice(method=LAST_RESORT)
    return chosen if LAST_RESORT in {one.method for one in chosen} else [*chosen, last]


def first_exact(session: Session, model: Model, kinds: Collection[str]) -> MethodChoice:
    """Return the method that the model uses for a batch that must be exact."""
    return exact(announced(session), Policy.model_validate(model.policy), kinds)[0]
