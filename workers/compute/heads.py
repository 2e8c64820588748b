"""Store and load the statistics of a head that was fitted in closed form.

They are sums over the training rows and contain them: internal state of a version, never served,
and destroyed when a row that they hold is overwritten.
"""

from __future__ import annotations

from typing import Any

from models_store import Store, errors
from service.messages.parts import Made
from unlearning.errors import NeedsRetrain, WrongOptions
from unlearning.heads import statistics
from unlearning.heads.statistics import Statistics
from workers.compute import workspace


def keep(store: Store, found: Statistics | None) -> list[Made]:
    """Store the statistics of a version's training rows; return what the worker registers."""
    if found is None:
        return []
    saved = workspace.save(store, "statistics", found.to_tensors(), {})
    return [workspace.made("statistics", saved, describe(found)["statistics"])]


def describe(found: Statistics | None) -> dict[str, Any]:
    """Return the public facts of statistics for the version's report; {} if there are none."""
    if found is None:
        return {}
    return {
        "statistics": {
            "digest": found.digest(),
            "features": len(found.gram),
            "grid_bits": found.bits,
        }
    }


def load(store: Store, digest: str | None) -> Statistics | None:
    """Return the statistics stored under ``digest``; None if there are none.

    Raise ``NeedsRetrain`` if they are damaged: a fit on the retained rows replaces them.
    """
    if digest is None:
        return None
    try:
        return statistics.from_tensors(workspace.load(store, "statistics", digest))
    except (errors.CorruptCheckpoint, errors.NotStored, WrongOptions) as damage:
        raise NeedsRetrain(f"the statistics of the base version cannot be used: {damage}") from None
