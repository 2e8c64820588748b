"""The OpenAPI document: what FastAPI derives, with this service's problems in place of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from service.api import problems, schemas_deletion_requests

DESCRIPTION = """
Takes deletion requests for the training data of machine-learning models, has workers unlearn the
records, verifies the result and publishes it, with a signed audit report of each version.

Every path but health and the public keys needs an API key. Every error is
`application/problem+json`. Lists are paged with an opaque `cursor`.
"""

TAGS = (
    ("deletion requests", "what is to be forgotten, and what became of it"),
    ("audit", "the chain of events, its signed head and the report of a version"),
    ("datasets", "ingested training data"),
    ("models", "an architecture on a dataset, with a recipe and an unlearning policy"),
    ("training runs", "training of a model from the records that may be used"),
    ("versions", "immutable weights, their lineage and the alias production"),
    ("methods", "what the installed workers can do"),
    ("health", "for supervisors and load balancers"),
)

#: Named by hand-written parts of the document.
_EXTRA: tuple[type[BaseModel], ...] = (problems.Problem, schemas_deletion_requests.NewBatchItem)


def install(app: FastAPI) -> None:
    """Serve the document at ``/openapi.json``."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # FastAPI's documented way


def _document(app: FastAPI) -> dict[str, Any]:
    made = get_openapi(
        title=app.title,
        version=app.version,
        description=DESCRIPTION,
        routes=app.routes,
        tags=[{"name": name, "description": text} for name, text in TAGS],
    )
    shapes = made.setdefault("components", {}).setdefault("schemas", {})
    for model in _EXTRA:
        shapes.update(_shapes(model))
    for unused in ("HTTPValidationError", "ValidationError"):
        shapes.pop(unused, None)
    return made


def _shapes(model: type[BaseModel]) -> dict[str, Any]:
    shape = model.model_json_schema(ref_template="#/components/schemas/{model}")
    inner: dict[str, Any] = shape.pop("$defs", {})
    return {**inner, model.__name__: shape}


def operations(document: dict[str, Any]) -> Iterable[tuple[str, str, dict[str, Any]]]:
    """(method, path, operation) of every operation of a document."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method, path, operation
