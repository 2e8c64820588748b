"""Capabilities of the installed workers over HTTP, and the schema of policies."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.api import auth, bodies, deps, pagination
from service.ledger.database.tables import Capability
from service.ledger.registry import capabilities, choices, methods
from service.messages.catalogue import Kind

router = bodies.router("/v1", tag="methods")

Reading = Annotated[auth.Principal, auth.require("models:read")]


class CapabilityView(BaseModel):
    """One capability of a worker, with the JSON schema of its options."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    summary: str
    options_schema: dict[str, Any] = Field(description="JSON schema (2020-12) of the options")
    code_version: str
    announced_at: datetime


class MethodView(CapabilityView):
    """An unlearning method."""

    forgets: list[str] = Field(description="kinds of forgetting: records, class")
    guarantee: Literal["exact", "certified", "empirical"] = Field(
        description="exact: the weights are those of a training without the records; certified: "
        "they are within a bound of those, which a certificate proves; empirical: measured, not "
        "proven"
    )
    cost: Literal["step", "training"] = Field(
        description="training: makes epochs over retained rows; runs in the lane for trainings"
    )
    needs: dict[str, list[str]] = Field(
        description="what it cannot do without, and for which kinds of forgetting: anchor (its "
        "prepared cache), update_log (kept while the anchor was trained, see keep_update_log), "
        "statistics (kept by heads that are fitted to their minimum)"
    )


class ArchitectureView(CapabilityView):
    """An architecture."""

    default_method: str | None = Field(
        description="method of models whose policy names none; null: the policy's default"
    )
    recipe: dict[str, Any] = Field(
        description="options that a recipe has unless it names an optimiser, in place of the "
        "defaults that GET /v1/recipes shows"
    )


class InputKindView(CapabilityView):
    """A kind of input: what the rows of a dataset are."""

    options_schema: dict[str, Any] = Field(
        description="JSON schema (2020-12) of what a source states about its rows"
    )
    axes: list[str] = Field(description="axes of one row")
    dtypes: list[str] = Field(description="type in the store; of uint8 and float32 the smallest")
    scales: dict[str, float] = Field(
        description="by dtype, what models multiply rows by unless their transform says "
        "otherwise; empty: they take no transform"
    )
    decides: list[str] = Field(description="parameters of an architecture that datasets decide")
    files: dict[str, str] = Field(
        default_factory=dict,
        description="options that name a stored file by its sha256, and its kind: GET "
        "/v1/tokenizers",
    )
    learned: bool = Field(
        False,
        description="the options are learned from the training rows at ingest; no source states "
        "them",
    )


class GateView(CapabilityView):
    """A gate of the verification; its summary is the question that it answers."""

    options_schema: dict[str, Any] = Field(
        description="JSON schema (2020-12) of its limits, which a policy sets under `gates`"
    )
    concern: Literal["integrity", "utility", "removal"]
    metric: str | None = Field(description="the metric that it judges; null: it judges a fact")
    needs: list[str] = Field(
        description="what there must be for it to be asked: records or class (what is forgotten), "
        "never_seen_rows, references, retained_rows, anchor"
    )
    direction: Literal["at_most", "within", "holds"] = Field(
        description="at_most: a metric above the limit fails; within: one farther from its "
        "target on either side; holds: there is no metric"
    )
    disclosure: Literal["public", "few_rows", "scores"] = Field(
        description="who may read its figures and reason: public: all keys; few_rows: all keys, "
        "unless they are of few rows; scores: keys with audit:read"
    )


@router.get(
    "/methods",
    response_model=pagination.Page[MethodView],
    summary="List the unlearning methods with the schema of their options",
)
def list_methods(_: Reading, session: deps.Reader, paging: pagination.Asked) -> Any:
    """Return a page of the methods that workers announced."""
    return _page(session, "method", paging, _method)


@router.get(
    "/architectures",
    response_model=pagination.Page[ArchitectureView],
    summary="List the architectures with the schema of their parameters",
)
def list_architectures(_: Reading, session: deps.Reader, paging: pagination.Asked) -> Any:
    """Return a page of the architectures that workers announced."""
    return _page(session, "architecture", paging, _architecture)


@router.get(
    "/recipes",
    response_model=pagination.Page[CapabilityView],
    summary="List how models can be trained: the recipe, and installed trainers",
)
def list_recipes(_: Reading, session: deps.Reader, paging: pagination.Asked) -> Any:
    """Return the service's recipe, `default`, and the trainers that workers announced."""
    return _page(session, "recipe", paging, _plain)


@router.get(
    "/gates",
    response_model=pagination.Page[GateView],
    summary="List the gates of the verification with the schema of their limits",
)
def list_gates(_: Reading, session: deps.Reader, paging: pagination.Asked) -> Any:
    """Return a page of the gates that workers announced."""
    return _page(session, "gate", paging, _with_details)


@router.get(
    "/inputs",
    response_model=pagination.Page[InputKindView],
    summary="List the kinds of input with the schema of what a source states about its rows",
)
def list_inputs(_: Reading, session: deps.Reader, paging: pagination.Asked) -> Any:
    """Return a page of the kinds of input that workers announced."""
    return _page(session, "input", paging, _with_details)


@router.get(
    "/policy-schema",
    response_model=dict[str, Any],
    summary="Show the JSON schema of a policy, with the limits of every announced gate",
)
def show_policy_schema(_: Reading, session: deps.Reader) -> Any:
    """Return the schema against which a model's policy is checked."""
    return choices.policy_schema(session)


def _page(
    session: deps.Reader,
    kind: Kind,
    paging: pagination.Paging,
    show: Callable[[Capability], dict[str, Any]],
) -> Any:
    rows = capabilities.page(session, kind, after=paging.after(str), limit=paging.fetch)
    page = paging.page(rows, key=lambda row: row.name)
    return {**page, "items": [show(row) for row in page["items"]]}


def _plain(row: Capability) -> dict[str, Any]:
    return CapabilityView.model_validate(row).model_dump()


def _architecture(row: Capability) -> dict[str, Any]:
    return {"default_method": None, "recipe": {}, **_plain(row), **row.details}


def _with_details(row: Capability) -> dict[str, Any]:
    return {**_plain(row), **row.details}


def _method(row: Capability) -> dict[str, Any]:
    """Show a method with defaults for what an announcement of an old worker lacks."""
    said = methods.of(row)
    return {
        **_plain(row),
        "forgets": sorted(said.forgets),
        "guarantee": said.guarantee,
        "cost": said.cost,
        "needs": {need: sorted(kinds) for need, kinds in said.needs.items()},
    }
