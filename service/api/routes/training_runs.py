"""Training runs over HTTP: queued here, run by a worker."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Body, Path, Response
from pydantic import BaseModel, Field

from service.api import auth, bodies, deps, pagination, problems, schemas
from service.ledger.database import db
from service.ledger.database.tables import Model, TrainingRun
from service.ledger.registry import models
from service.ledger.registry.keys import Scope
from service.ledger.reports import described, disclosure
from service.ledger.training import runs

router = bodies.router("/v1/models/{model}/training-runs", tag="training runs")

Reading = Annotated[auth.Principal, auth.require("models:read")]
Writing = Annotated[auth.Principal, auth.require("models:write")]
RunId = Annotated[str, Path(pattern=r"^run_[0-9a-z]{26}$", description="id of a training run")]

RETRY_AFTER_SECONDS = 5


class RunGiven(schemas.Body):
    """A training run to queue."""

    reason: Literal["initial", "request", "consolidate"] | None = Field(
        None,
        description="consolidate: an exact retrain on the retained rows; "
        "left out: initial for a model without versions, else request",
    )
    seed: int | None = Field(
        None, ge=0, le=2**63 - 1, description="reproduces the weights; left out: drawn and shown"
    )
    data_revision: int | None = Field(
        None,
        ge=0,
        le=2**31 - 1,
        description="train on the rows that the dataset had at this revision, without those "
        "forgotten since; left out: on all that it has when the training begins",
    )


#: No body means the same as an empty object.
Run = Annotated[RunGiven, Body(default_factory=RunGiven)]


class RunView(BaseModel):
    """A training run."""

    id: str
    model: str
    status: Literal["queued", "running", "completed", "failed", "cancelled"]
    reason: str
    seed: int
    data_revision: int | None = Field(
        description="the dataset's revision when it began; rows forgotten until then are left out"
    )
    asked_revision: int | None = Field(
        description="the revision given for it: rows that the dataset got later are left out, too"
    )
    progress: dict[str, Any] = Field(
        description="fraction, and of a training by gradients the last finished epoch and the "
        "largest number of epochs"
    )
    attempts: int
    error: str | None
    version: int | None = Field(description="number of the version that it made")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class EpochView(BaseModel):
    """The results of an epoch; null where they are withheld."""

    epoch: int = Field(description="counted from 1")
    training_loss: float | None = Field(
        description="mean of what the recipe minimises (smoothed labels, weighted classes) over "
        "the epoch's updates"
    )
    validation_loss: float | None = Field(description="mean loss of the validation rows at its end")
    validation_accuracy: float | None
    learning_rate: float | None = Field(
        description="of its last update; null: the training has none"
    )


class RunDetail(RunView):
    """A training run with the results of its epochs so far."""

    curve: list[EpochView]
    withheld: str | None = Field(
        description="why results are null: they would tell of very few rows; null: none is withheld"
    )


@router.post(
    "",
    status_code=202,
    response_model=RunDetail,
    responses=problems.responses(404, 409, 410, 413, 415),
    summary="Queue a new training of the model; a worker runs it",
)
def create(
    model: deps.Name,
    given: Run,
    caller: Writing,
    session: deps.Session,
    wake: deps.Wake,
    response: Response,
) -> Any:
    """Queue a training run on the records that are allowed when it starts.

    With `data_revision`, on those that the dataset had at this revision already.
    """
    row = models.get(session, model)
    run = runs.create(
        session,
        row,
        reason=given.reason,
        seed=given.seed,
        data_revision=given.data_revision,
        actor=caller.actor,
        now=db.now(),
    )
    session.commit()
    wake.trainings()
    response.headers["Location"] = f"/v1/models/{model}/training-runs/{run.id}"
    response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return _detail(row, run, {}, caller)


@router.get(
    "",
    response_model=pagination.Page[RunView],
    responses=problems.responses(404),
    summary="List the model's training runs, newest first",
)
def listing(model: deps.Name, _: Reading, session: deps.Reader, paging: pagination.Asked) -> Any:
    """Return a page of the model's training runs."""
    row = models.get(session, model)
    found = runs.page(session, row, before=paging.after(str), limit=paging.fetch)
    page = paging.page(found, key=lambda run: run.id)
    made = runs.version_numbers(session, page["items"])
    return {**page, "items": [described.run(row, run, made) for run in page["items"]]}


@router.get(
    "/{run:segment}",
    response_model=RunDetail,
    responses=problems.responses(404),
    summary="Show a training run, how far it is, and its losses and accuracy by epoch",
)
def show(model: deps.Name, run: RunId, caller: Reading, session: deps.Reader) -> Any:
    """Return a training run with its progress, and the results that the key may read."""
    row = models.get(session, model)
    found = runs.get(session, row, run)
    return _detail(row, found, runs.version_numbers(session, [found]), caller)


@router.post(
    "/{run:segment}:cancel",
    response_model=RunDetail,
    responses=problems.responses(404, 409),
    summary="Cancel a training run that waits or trains",
)
def cancel(
    model: deps.Name, run: RunId, caller: Writing, session: deps.Session, wake: deps.Wake
) -> Any:
    """Cancel the run; a training stops within seconds and its kept state is destroyed."""
    row = models.get(session, model)
    found = runs.get(session, row, run)
    runs.cancel(session, found, actor=caller.actor, now=db.now())
    shown = _detail(row, found, {}, caller)
    session.commit()
    wake.background()
    return shown


def _detail(
    model: Model, run: TrainingRun, made: dict[str, int], caller: auth.Principal
) -> dict[str, Any]:
    everything = caller.may(Scope.AUDIT_READ)
    curve, withheld = disclosure.curve(run.curve, run.set_changes, everything=everything)
    return {**described.run(model, run, made), "curve": curve, "withheld": withheld}
