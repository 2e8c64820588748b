"""What this installation can do, so that the API can check options without loading torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import workers
from service.ledger.capabilities import Announcement
from unlearning import architectures, methods, options, training, verification


def run(
    request: dict[str, Any], place: object, progress: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Every installed method, architecture, recipe and gates as plain JSON."""
    return {"announcements": [asdict(made) for made in installed()]}


def installed() -> list[Announcement]:
    """Every installed method and architecture, the training recipe and the gates."""
    version = workers.code_version()
    made = [
        Announcement(
            kind="recipe",
            name="default",
            summary="How a model is trained.",
            options_schema=options.schema(training.Recipe),
            code_version=version,
        ),
        Announcement(
            kind="gates",
            name="default",
            summary="What a version must show before it may be promoted.",
            options_schema=options.schema(verification.Gates),
            code_version=version,
        ),
    ]
    for name in methods.names():
        method = methods.get(name)
        made.append(
            Announcement(
                kind="method",
                name=name,
                summary=method.summary,
                options_schema=options.schema(method.options),
                code_version=version,
                details={
                    "forgets": sorted(method.forgets),
                    "guarantee": method.guarantee,
                    "cost": method.cost,
                },
            )
        )
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
