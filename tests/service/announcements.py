"""What a worker announces, for tests that have none: real schemas of a few real things."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from sqlalchemy.orm import Session

from service.ledger.registry import capabilities
from service.messages.catalogue import Announcement
from tests import factories
from unlearning import architectures, inputs, methods
from unlearning.core import recipe
from unlearning.verification import gates, limits
from workers.compute import catalogue


def announce(session: Session) -> None:
    """Write down three architectures, two methods, the recipe and every gate."""
    capabilities.announce(session, _announced(), now=factories.NOW)


@cache
def _announced() -> tuple[Announcement, ...]:
    # Most of a second: schemas are derived from what the modules declare.
    made = [
        Announcement("recipe", "default", "Training.", recipe.schema(), "1"),
        Announcement("criteria", "default", "Criteria.", limits.schema(), "1"),
        *(catalogue.announcement(gate, "1") for gate in gates.installed()),
    ]
    for name in ("lenet5", "mlp", "resnet18"):
        made.append(catalogue.of_architecture(architectures.get(name), "1"))
    for name in ("iau", "retrain"):
        method = methods.get(name)
        if name == "iau":  # only retraining is announced as able to forget a class here
            method = replace(method, forgets=frozenset({"records"}))
        made.append(catalogue.of_method(method, "1"))
    found = inputs.installed().found
    made += [catalogue.of_input(name, one, "1") for name, one in found.items()]
    return tuple(made)
