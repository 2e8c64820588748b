"""Measure an imported version: its scores on training, validation and audit rows, and the rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from unlearning import verification
from unlearning.verification import imported
from workers import data
from workers.compute import measuring
from workers.compute.workspace import Workspace


def run(
    request: dict[str, Any], place: Workspace, progress: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """``{"verification": {...}}`` of the checkpoint ``request["digest"]``."""
    store = place.store(request["store"])
    rows = data.open_array(
        store, request["array"], excluded=request["excluded"], trained_on=request["trained_on"]
    )
    model = place.load(store, request["model"], request["digest"])
    scored: dict[str, verification.Scores] = {}
    sets = measuring.sets_of_import(rows)
    for done, (name, examples) in enumerate(sets.items()):
        progress({"fraction": done / len(sets)})
        scored[name] = verification.score(model, examples)
    return {
        "verification": {
            "kind": "import",
            **imported.judge(scored["retain"], scored["audit"]),
            "sets": {name: measuring.figures(found) for name, found in scored.items()},
        }
    }
