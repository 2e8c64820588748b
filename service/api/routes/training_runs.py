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


#: No body means the same as an empty object.
Run = Annotated[RunGiven, Body(default_factory=RunGiven)]


class RunView(BaseModel):
    """A training run."""

    id: str
    model: str
    status: Literal["queued", "running", "completed", "failed", "cancelled"]
    reason: str
    seed: int
    data_revision: int | None = Field(description="the dataset's revision that it trains on")
    progress: dict[str, Any] = Field(description="fraction, epoch and losses so far")
    attempts: int
    error: str | None
    version: int | None = Field(description="number of the version that it made")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


@router.post(
    "",
    status_code=202,
    response_model=RunView,
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
    """Queue a training run on the records that are allowed when it starts."""
    row = models.get(session, model)
    run = runs.create(
        session, row, reason=given.reason, seed=given.seed, actor=caller.actor, now=db.now()
    )
    session.commit()
    wake.trainings()
    response.headers["Location"] = f"/v1/models/{model}/training-runs/{run.id}"
    response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return view(row, run, {})


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
    return {**page, "items": [view(row, run, made) for run in page["items"]]}


@router.get(
    "/{run:segment}",
    response_model=RunView,
    responses=problems.responses(404),
    summary="Show a training run and how far it is",
)
def show(model: deps.Name, run: RunId, _: Reading, session: deps.Reader) -> Any:
    """Return a training run with its progress."""
    row = models.get(session, model)
    found = runs.get(session, row, run)
    return view(row, found, runs.version_numbers(session, [found]))


@router.post(
    "/{run:segment}:cancel",
    response_model=RunView,
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
    shown = view(row, found, {})
    session.commit()
    wake.background()
    return shown


def view(model: Model, run: TrainingRun, made: dict[str, int]) -> dict[str, Any]:
    """Return a training run in its public form; ``made`` has the number of its version."""
    return {
        "id": run.id,
        "model": model.name,
        "status": run.status.value,
        "reason": run.reason,
        "seed": run.seed,
        "data_revision": run.data_revision,
        "progress": run.progress,
        "attempts": run.attempts,
        "error": run.error,
        "version": made.get(run.id),
        "created_at": run.created_at,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
    }
