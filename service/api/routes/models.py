"""Models over HTTP: create, show, change the policy, close the next batch at once."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Body, Response
from pydantic import BaseModel, Field, model_validator

from service.api import auth, bodies, deps, pagination, problems, schemas
from service.ledger.batches import next_batch
from service.ledger.database import db
from service.ledger.database.states import ModelStatus
from service.ledger.registry import models
from service.ledger.registry.policy import Policy
from service.ledger.reports import described, disclosure

router = bodies.router("/v1/models", tag="models")

Reading = Annotated[auth.Principal, auth.require("models:read")]
Writing = Annotated[auth.Principal, auth.require("models:write")]

Numbers = Annotated[list[float], Field(min_length=1, max_length=65_536)]


class ArchitectureGiven(schemas.Body):
    """An installed architecture; parameters that the dataset decides may be left out."""

    name: str = Field(max_length=64, pattern=r"^[A-Za-z0-9._-]+$", examples=["lenet5"])
    parameters: dict[str, Any] = Field(default_factory=dict)


class TransformGiven(schemas.Body):
    """From stored values to the input: (x · scale − mean) / std, per channel or feature."""

    scale: float | None = Field(
        None, description="left out: 1/255 for images of bytes, 1 for tables and floats"
    )
    mean: Numbers | None = Field(None, description="left out: 0")
    std: Numbers | None = Field(None, description="left out: 1")


class ModelGiven(schemas.Body):
    """A model to create."""

    name: str = Field(pattern=deps.NAME_PATTERN, examples=["face-classifier"])
    dataset: schemas.DatasetName = Field(examples=["faces"])
    architecture: ArchitectureGiven
    transform: TransformGiven = Field(default_factory=TransformGiven)
    recipe: dict[str, Any] = Field(
        default_factory=dict,
        description="training options; GET /v1/recipes shows their schema (`trainer` names another "
        "one than the first), GET /v1/architectures "
        "which an architecture has in place of the defaults unless `optimiser` is given",
    )
    policy: Policy = Field(default_factory=Policy)


class PolicyChange(schemas.Body):
    """A change of the policy: fields that are left out stay as they are."""

    policy: Policy


class RunNowGiven(schemas.Body):
    """The method of the next batch, in place of the policy's."""

    method: str | None = Field(None, max_length=64, pattern=r"^[a-z][a-z0-9_]*$")
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _options_need_a_method(self) -> RunNowGiven:
        if self.options and self.method is None:
            raise ValueError("options need the method that they are of")
        return self


#: No body means the same as an empty object.
RunNow = Annotated[RunNowGiven, Body(default_factory=RunNowGiven)]


class DriftView(BaseModel):
    """What was forgotten since the anchor of the production version."""

    anchor: int
    batches: int
    forgotten: int
    anchor_rows: int
    share: float = Field(description="of the anchor's rows; classes forgotten whole do not count")
    class_share: float | None = Field(
        description="largest share of one class, rounded up to steps of "
        f"{disclosure.CLASS_SHARE_STEP:g}; of classes forgotten whole, and of fewer than "
        f"{disclosure.LEAST_ROWS} forgotten rows, it is not shown"
    )
    age_days: float


class MarginsView(BaseModel):
    """How far the margins are that the policy asks for; their values are never shown."""

    state: Literal["waiting", "partial", "ready", "unavailable"] = Field(
        description="ready: the next batch moves each row to a target of its own; until then, and "
        "where they are unavailable, the calibrated step is taken"
    )
    reason: str | None
    models: int = Field(description="models to train: splits times folds")
    trained: int
    epochs: float = Field(description="epochs trained so far, counted over all training rows")
    rows: int = Field(description="training rows that have margins, or will have them")


class ModelView(BaseModel):
    """A model."""

    name: str
    dataset: str
    status: ModelStatus = Field(
        description="preparing: a worker has not built the network yet; invalid: see `error`; "
        "withdrawn: nothing is served any more; purged: all its versions are destroyed"
    )
    error: str | None
    architecture: dict[str, Any]
    transform: dict[str, Any]
    recipe: dict[str, Any]
    policy: dict[str, Any]
    production: int | None = Field(description="number of the production version")
    run_now_at: datetime | None
    created_at: datetime
    withdrawn_at: datetime | None
    purged_at: datetime | None


class ModelDetail(ModelView):
    """A model with its current work."""

    parameters: dict[str, Any] | None = Field(
        description="tensors of a checkpoint: {name: [shape, dtype]}; null while preparing"
    )
    tied: list[list[str]] | None = Field(
        description="names of `parameters` that are one tensor: a checkpoint holds it under one of "
        "them, or under several with equal values; null while preparing"
    )
    pending: dict[str, int] = Field(description="erasures that wait for a batch, per kind")
    active_training_run: str | None
    drift: DriftView | None = Field(description="null without a production version")
    margins: MarginsView | None = Field(
        description="of the production version's anchor; null where the policy asks for none"
    )


class RunNowView(BaseModel):
    """The method of the next batch, and the erasures that wait for it."""

    model: str
    run_now_at: datetime
    method: str | None = Field(
        description="null: the policy's; an exact one without a request for it: the live version "
        "forgot a class, which only a retraining is sure not to bring back"
    )
    pending: dict[str, int] = Field(description="erasures that wait for it, per kind")


@router.post(
    "",
    status_code=201,
    response_model=ModelDetail,
    responses=problems.responses(404, 409, 410, 413, 415),
    summary="Create a model on a dataset that is ready",
)
def create(
    given: ModelGiven, caller: Writing, session: deps.Session, wake: deps.Wake, response: Response
) -> Any:
    """Create the model; a worker then checks that its architecture fits the dataset."""
    model = models.create(
        session,
        given.name,
        dataset=given.dataset,
        architecture=given.architecture.name,
        parameters=given.architecture.parameters,
        transform=given.transform.model_dump(),
        recipe=given.recipe,
        policy=given.policy,
        actor=caller.actor,
        now=db.now(),
    )
    shown = described.model(session, model)
    session.commit()
    wake.deletions(model.id)
    response.headers["Location"] = f"/v1/models/{model.name}"
    return shown


@router.get(
    "",
    response_model=pagination.Page[ModelView],
    summary="List the models",
)
def listing(_: Reading, session: deps.Reader, paging: pagination.Asked) -> Any:
    """Return a page of the models."""
    rows = models.page(session, after=paging.after(str), limit=paging.fetch)
    page = paging.page(rows, key=lambda row: row.name)
    return {**page, "items": described.models(session, page["items"])}


@router.get(
    "/{model:segment}",
    response_model=ModelDetail,
    responses=problems.responses(404),
    summary="Show a model",
)
def show(model: deps.Name, _: Reading, session: deps.Reader) -> Any:
    """Return a model with its current work."""
    return described.model(session, models.get(session, model))


@router.patch(
    "/{model:segment}",
    response_model=ModelDetail,
    responses=problems.responses(404, 409, 410, 413, 415),
    summary="Change a model's unlearning policy",
)
def change(
    model: deps.Name, given: PolicyChange, caller: Writing, session: deps.Session, wake: deps.Wake
) -> Any:
    """Change the given fields of the policy; other fields stay as they are."""
    changes = given.policy.model_dump(mode="json", exclude_unset=True)
    changed = next_batch.change_policy(
        session, models.get(session, model), changes, actor=caller.actor, now=db.now()
    )
    shown = described.model(session, changed)
    session.commit()
    wake.deletions(changed.id)
    return shown


@router.post(
    "/{model}/batches:run-now",
    status_code=202,
    response_model=RunNowView,
    responses=problems.responses(404, 409, 410, 413, 415),
    summary="Close the model's next batch without waiting",
)
def run_now(
    model: deps.Name, given: RunNow, caller: Writing, session: deps.Session, wake: deps.Wake
) -> Any:
    """Close the batch now, with the given method in place of the policy's."""
    row, now = models.get(session, model), db.now()
    method, pending = next_batch.run_now(
        session, row, method=given.method, options=given.options, actor=caller.actor, now=now
    )
    session.commit()
    wake.deletions(row.id)
    return RunNowView(model=model, run_now_at=now, method=method, pending=pending)
