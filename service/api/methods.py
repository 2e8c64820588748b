"""What the installed workers can do: methods, architectures, recipes, gates."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.api import auth, bodies, deps, pagination
from service.ledger import capabilities
from service.ledger.tables import Capability

router = bodies.router("/v1", tag="methods")

Reading = Annotated[auth.Principal, auth.require("models:read")]


class CapabilityView(BaseModel):
    """One thing that a worker can do, with the JSON schema of its options."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    summary: str
    options_schema: dict[str, Any] = Field(description="JSON schema (2020-12) of the options")
    code_version: str
    announced_at: datetime


class MethodView(CapabilityView):
    """An unlearning method."""

    forgets: list[str] = Field(description="kinds of forgetting: records, class")
    guarantee: str = Field(description="exact (retraining only) or empirical")
    cost: Literal["step", "training"] = Field(
        description="training: makes epochs over retained rows; runs in the lane for trainings"
    )


@router.get(
    "/methods",
    response_model=pagination.Page[MethodView],
    summary="List the unlearning methods with the schema of their options",
)
def list_methods(_: Reading, session: deps.Reader, paging: pagination.Asked) -> Any:
    rows = capabilities.page(session, "method", after=paging.after(str), limit=paging.fetch)
    page = paging.page(rows, key=lambda row: row.name)
    return {**page, "items": [_method(row) for row in page["items"]]}


@router.get(
    "/architectures",
    response_model=pagination.Page[CapabilityView],
    summary="List the architectures with the schema of their parameters",
)
def list_architectures(_: Reading, session: deps.Reader, paging: pagination.Asked) -> Any:
    return _page(session, "architecture", paging)


@router.get(
    "/recipes",
    response_model=pagination.Page[CapabilityView],
    summary="Show the schema of the training recipe",
)
def list_recipes(_: Reading, session: deps.Reader, paging: pagination.Asked) -> Any:
    return _page(session, "recipe", paging)


@router.get(
    "/gates",
    response_model=pagination.Page[CapabilityView],
    summary="Show the schema of the verification's gates",
)
def list_gates(_: Reading, session: deps.Reader, paging: pagination.Asked) -> Any:
    return _page(session, "gates", paging)


def _page(session: deps.Reader, kind: capabilities.Kind, paging: pagination.Paging) -> Any:
    rows = capabilities.page(session, kind, after=paging.after(str), limit=paging.fetch)
    return paging.page(rows, key=lambda row: row.name)


def _method(row: Capability) -> dict[str, Any]:
    shown = CapabilityView.model_validate(row).model_dump()
    return {
        **shown,
        "forgets": row.details.get("forgets", ["records"]),
        "guarantee": row.details.get("guarantee", "empirical"),
        "cost": capabilities.cost(row),
    }
