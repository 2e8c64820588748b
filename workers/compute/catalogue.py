"""What this installation can do, so that the API can check options without loading torch."""

from __future__ import annotations

from collections.abc import Callable

import workers
from service.messages.catalogue import Announcement, Answer, Request
from service.messages.parts import Fraction
from unlearning import architectures, methods
from unlearning.core import options, training
from unlearning.verification import gates, limits


def run(request: Request, place: object, progress: Callable[[Fraction], None]) -> Answer:
    """Return every installed method, architecture and gate, the recipe and the criteria."""
    version = workers.code_version()
    found = methods.installed()
    return Answer(
        announcements=[
            *_others(version),
            *(announcement_of_method(method, version) for method in found.methods),
        ],
        refused=list(found.refused),
    )


def _others(version: str) -> list[Announcement]:
    made = [
        Announcement(
            kind="recipe",
            name="default",
            summary="How a model is trained.",
            options_schema=options.schema(training.Recipe),
            code_version=version,
        ),
        Announcement(
            kind="criteria",
            name="default",
            summary="What holds for every gate of a verification, and when a retrain is advised.",
            options_schema=limits.schema(),
            code_version=version,
        ),
    ]
    made += [announcement(gate, version) for gate in gates.installed()]
    for name in architectures.names():
        architecture = architectures.get(name)
        made.append(
            Announcement(
                kind="architecture",
                name=name,
                summary=architecture.summary,
                options_schema=options.schema(architecture.parameters),
                code_version=version,
            )
        )
    return made


def announcement_of_method(method: methods.Method, code_version: str) -> Announcement:
    """Return what a method says of itself, with the JSON schema of its options."""
    return Announcement(
        kind="method",
        name=method.name,
        summary=method.summary,
        options_schema=options.schema(method.options),
        code_version=code_version,
        details={
            "forgets": sorted(method.forgets),
            "guarantee": method.guarantee,
            "cost": method.cost,
            "needs": {need: sorted(kinds) for need, kinds in method.needs.items()},
        },
    )


def announcement(gate: gates.Gate, code_version: str) -> Announcement:
    """Return what a gate says of itself, with the JSON schema of its limits."""
    return Announcement(
        kind="gate",
        name=gate.name,
        summary=gate.question,
        options_schema=limits.schema_of(gate),
        code_version=code_version,
        details={
            "concern": gate.concern,
            "metric": gate.metric,
            "needs": sorted(gate.needs),
            "direction": gate.direction,
            "disclosure": gate.disclosure,
        },
    )
