"""The OpenAPI document: what FastAPI derives, with this service's problems in place of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

DESCRIPTION = """
Takes deletion requests for the training data of machine-learning models, has workers unlearn the
records, verifies the result and publishes it, with a signed audit report of each version.

Every path but health, the public keys and OpenDSR's discovery needs an API key with the scope that
its `security` names; `admin` includes every scope. Every error is `application/problem+json`. Lists
are paged with an opaque `cursor`.
"""

TAGS = (
    ("deletion requests", "what is to be forgotten, and its progress"),
    ("opendsr", "erasure requests of controllers as OpenDSR 2.0 has them"),
    ("audit", "the chain of events, its signed heads and proofs, and the report of a version"),
    ("datasets", "ingested training data"),
    ("models", "an architecture on a dataset, with a recipe and an unlearning policy"),
    ("training runs", "training of a model from the records that may be used"),
    ("versions", "immutable weights, their lineage and the alias production"),
    ("withdrawals", "versions, models and datasets taken out of service for good, then destroyed"),
    ("webhooks", "receivers that are told of what happens, by signed requests"),
    ("methods", "what the installed workers can do"),
    ("operations", "numbers for a monitoring system"),
    ("health", "for supervisors and load balancers"),
)


def install(app: FastAPI, *shapes: type[BaseModel]) -> None:
    """Serve the document at ``/openapi.json``; ``shapes`` are named by hand-written parts of it."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, shapes)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # FastAPI's documented way


def _document(app: FastAPI, extra: Iterable[type[BaseModel]]) -> dict[str, Any]:
    made = get_openapi(
        title=app.title,
        version=app.version,
        description=DESCRIPTION,
        routes=app.routes,
        tags=[{"name": name, "description": text} for name, text in TAGS],
    )
    shapes = made.setdefault("components", {}).setdefault("schemas", {})
    for model in extra:
        shapes.update(_shapes(model))
    for unused in ("HTTPValidationError", "ValidationError"):
        shapes.pop(unused, None)
    return made


def _shapes(model: type[BaseModel]) -> dict[str, Any]:
    shape = model.model_json_schema(ref_template="#/components/schemas/{model}")
    inner: dict[str, Any] = shape.pop("$defs", {})
    return {**inner, model.__name__: shape}


def methods(document: dict[str, Any], path: str) -> list[str]:
    """Return the methods that a document has for a path, in upper case."""
    for template, item in document["paths"].items():
        if re.fullmatch(re.sub(r"\\{\w+\\}", "[^/:]+", re.escape(template)), path):
            return sorted(method.upper() for method in item)
    return []
