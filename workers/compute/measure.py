"""Measure an imported version: its scores on training, validation and audit rows, and the rules."""

from __future__ import annotations

from collections.abc import Callable

from service.messages.measure import Answer, Request
from service.messages.parts import Fraction
from unlearning import verification
from unlearning.verification import imported
from workers.compute import measuring
from workers.compute.workspace import Workspace


def run(request: Request, place: Workspace, progress: Callable[[Fraction], None]) -> Answer:
    """Return the verification of the checkpoint that the request names."""
    store, rows = place.open(request.data)
    model = place.load(store, request.model, request.digest)
    scored: dict[str, verification.Scores] = {}
    sets = measuring.sets_of_import(rows)
    for done, (name, examples) in enumerate(sets.items()):
        progress(Fraction(fraction=done / len(sets)))
        scored[name] = verification.score(model, examples)
    return Answer(
        verification={
            "kind": "import",
            **imported.judge(scored["retain"], scored["audit"]),
            "sets": {name: measuring.figures(found) for name, found in scored.items()},
            "sampled": measuring.sampled_of_import(rows, sets),
        }
    )
