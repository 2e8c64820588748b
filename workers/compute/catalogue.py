"""List what this installation can do, so that the API can check options without loading torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import workers
from service.messages.catalogue import Announcement, Answer, Request
from service.messages.parts import Fraction
from unlearning import architectures, inputs, methods, trainers
from unlearning.core import options, recipe
from unlearning.verification import gates, limits


def run(request: Request, place: object, progress: Callable[[Fraction], None]) -> Answer:
    """Return the announcements of everything installed, and why any of it cannot be used."""
    version = workers.code_version()
    of_methods, of_architectures = methods.installed(), architectures.installed()
    of_trainers, of_inputs, of_gates = trainers.installed(), inputs.installed(), gates.loaded()
    known = of_methods, of_architectures, of_trainers, of_inputs, of_gates
    made = [
        *_of_the_service(version),
        *(of_method(one, version) for one in of_methods.found.values()),
        *(of_architecture(one, version) for one in of_architectures.found.values()),
        *(of_trainer(one, version) for one in of_trainers.found.values()),
        *(of_input(name, one, version) for name, one in of_inputs.found.items()),
        *(announcement(one, version) for one in of_gates.found.values()),
    ]
    return Answer(announcements=made, refused=[why for group in known for why in group.refused])


def _of_the_service(version: str) -> list[Announcement]:
    return [
        Announcement(
            kind="recipe",
            name="default",
            summary="How a model is trained.",
            options_schema=recipe.schema(),
            code_version=version,
        ),
        Announcement(
            kind="criteria",
            name="default",
            summary="What applies to every gate of a verification, and when a retrain is advised.",
            options_schema=limits.schema(),
            code_version=version,
        ),
    ]


def of_architecture(architecture: architectures.Architecture, code_version: str) -> Announcement:
    """Return an architecture's announcement, with the JSON schema of its parameters."""
    details: dict[str, Any] = {"recipe": dict(architecture.recipe)} if architecture.recipe else {}
    if architecture.default_method:
        details["default_method"] = architecture.default_method
    return Announcement(
        kind="architecture",
        name=architecture.name,
        summary=architecture.summary,
        options_schema=options.schema(architecture.parameters),
        code_version=code_version,
        details=details,
    )


def of_trainer(trainer: trainers.Trainer, code_version: str) -> Announcement:
    """Return a trainer's announcement as a recipe, with the JSON schema of its options."""
    return Announcement(
        kind="recipe",
        name=trainer.name,
        summary=trainer.summary,
        options_schema=options.schema(trainer.options),
        code_version=code_version,
    )


def of_input(name: str, declared: inputs.Declared, code_version: str) -> Announcement:
    """Return the announcement of a kind of input, with the JSON schema of its options."""
    found = declared.input
    return Announcement(
        kind="input",
        name=name,
        summary=declared.summary,
        options_schema=options.schema(found.options),
        code_version=code_version,
        details={
            "axes": list(found.axes),
            "dtypes": list(found.dtypes),
            "scales": dict(found.scales),
            "decides": list(found.decides),
            "learned": found.learned,
        },
    )


def of_method(method: methods.Method, code_version: str) -> Announcement:
    """Return a method's announcement, with the JSON schema of its options."""
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
    """Return a gate's announcement, with the JSON schema of its limits."""
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
