"""The methods to try for a batch: their order, their lane, their time limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.ledger.database.tables import Batch
from service.ledger.registry import methods
from service.ledger.registry.methods import Announced
from service.ledger.registry.policy import MethodChoice, Policy
from service.messages import unlearn


@dataclass(frozen=True)
class Attempt:
    """A method to try, with facts from its announcement."""

    choice: MethodChoice
    #: It takes as long as a training.
    trains: bool = False
    #: Its anchor must be prepared first.
    prepares: bool = False
    exact: bool = False

    @property
    def in_trainings(self) -> bool:
        """Return whether it belongs to the trainings lane, with the time limit of a training."""
        return self.trains or self.prepares


def choices(known: Mapping[str, Announced], batch: Batch, policy: Policy) -> list[MethodChoice]:
    """Return the methods of a batch in the order in which they are tried.

    They are the policy's; if the requests ask for another method, that one comes first. If it is
    exact, the batch must be exact, and only exact methods follow.
    """
    if batch.method is None:
        chosen = policy.choices()
        if not any(known[one.method].installed for one in chosen if one.method in known):
            # None of them is installed any more, but the deletion must be done all the same.
            chosen += methods.exact(known, policy, [batch.kind])
    else:
        first = MethodChoice.model_validate(batch.method)
        found = known.get(first.method)
        must = found is not None and found.exact
        others = methods.exact(known, policy, [batch.kind]) if must else policy.fallbacks
        chosen = [first, *others]
    return [one for place, one in enumerate(chosen) if one not in chosen[:place]]


def of(
    known: Mapping[str, Announced], request: unlearn.Request, chosen: Sequence[MethodChoice]
) -> list[Attempt]:
    """Return what the methods chosen for this batch cost and guarantee."""
    start = request.anchor
    unprepared = start.cache is None and not start.forgot_before
    found = []
    for choice in chosen:
        method = known.get(choice.method)
        found.append(
            Attempt(choice)
            if method is None
            else Attempt(
                choice,
                trains=method.trains,
                prepares=unprepared and method.requires("anchor", request.kind),
                exact=method.exact,
            )
        )
    return found
