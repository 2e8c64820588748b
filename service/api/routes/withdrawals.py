"""Withdrawals over HTTP: take a version, a model or a dataset out of service for good.

Each call may be repeated: it then returns the present state.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Body, Query
from pydantic import Field

from service.api import auth, bodies, deps, problems, schemas
from service.api.routes import datasets, models, versions
from service.ledger.database import db
from service.ledger.destruction import withdrawals
from service.ledger.destruction.withdrawals import Purge
from service.ledger.registry import datasets as ledger_datasets
from service.ledger.registry import models as ledger_models
from service.ledger.registry import versions as ledger_versions
from service.ledger.registry.keys import Scope
from service.ledger.reports import described

router = bodies.router("/v1", tag="withdrawals")

Promoting = Annotated[auth.Principal, auth.require("models:promote")]
Writing = Annotated[auth.Principal, auth.require("models:write")]

_PURGE = (
    "when the weights are destroyed: after the policy's purge_after_seconds, or as soon as a "
    "worker comes to it; an anchor that a live version steps from goes when that one is replaced"
)
WhenQuery = Annotated[Purge, Query(description=_PURGE)]


class ModelWithdrawal(schemas.Body):
    """How to withdraw a model."""

    purge: Purge = Field("after_window", description=_PURGE)


class VersionWithdrawal(ModelWithdrawal):
    """How to withdraw a version."""

    promote: int | None = Field(
        None,
        ge=1,
        le=2**31 - 1,
        description="published version that goes live in its place; left out: nothing is live "
        "after the production version was withdrawn",
    )


#: No body means the same as an empty object.
OfModel = Annotated[ModelWithdrawal, Body(default_factory=ModelWithdrawal)]
OfVersion = Annotated[VersionWithdrawal, Body(default_factory=VersionWithdrawal)]


@router.post(
    "/models/{model:segment}:withdraw",
    status_code=202,
    response_model=models.ModelDetail,
    responses=problems.responses(404, 409, 413, 415),
    summary="Withdraw a model: nothing of it is served, trained or imported again",
    description="All its versions are withdrawn, its batches and trainings are stopped, and its "
    "open erasures are complete: nothing that is live holds their records. The weights are "
    "destroyed after the policy's window, with signed receipts. This cannot be undone.",
)
def withdraw_model(
    model: deps.Name,
    given: OfModel,
    caller: Promoting,
    session: deps.Session,
    wake: deps.Wake,
) -> Any:
    """Withdraw a model."""
    return _model(session, wake, caller, model, given.purge)


@router.delete(
    "/models/{model:segment}",
    status_code=202,
    response_model=models.ModelDetail,
    responses=problems.responses(404, 409),
    summary="Withdraw a model and have it destroyed",
    description="As `:withdraw`. A key without `models:promote` may delete a model of which "
    "nothing is live.",
)
def delete_model(
    model: deps.Name,
    caller: Writing,
    session: deps.Session,
    wake: deps.Wake,
    purge: WhenQuery = "after_window",
) -> Any:
    """Withdraw a model."""
    return _model(session, wake, caller, model, purge)


@router.post(
    "/models/{model}/versions/{number:segment}:withdraw",
    status_code=202,
    response_model=versions.VersionView,
    responses=problems.responses(404, 409, 413, 415),
    summary="Withdraw a version: it is never handed out, live or imported again",
    description="If it is live, `promote` names what takes its place. Without that nothing is "
    "live, and the model's open erasures are complete. This cannot be undone.",
)
def withdraw_version(
    model: deps.Name,
    number: deps.Number,
    given: OfVersion,
    caller: Promoting,
    session: deps.Session,
    wake: deps.Wake,
) -> Any:
    """Withdraw a version."""
    row = ledger_models.get(session, model)
    successor = given.promote
    withdrawals.withdraw_version(
        session,
        row,
        version := ledger_versions.get(session, row, number),
        successor=None if successor is None else ledger_versions.get(session, row, successor),
        purge=given.purge,
        actor=caller.actor,
        now=db.now(),
    )
    shown = described.versions(session, row, [version])[0]
    session.commit()
    wake.background()
    wake.deletions(row.id)
    return shown


@router.delete(
    "/datasets/{dataset}",
    status_code=202,
    response_model=datasets.DatasetDetail,
    responses=problems.responses(404, 409),
    summary="Withdraw a dataset and have every row of it destroyed",
    description="Refused while models of it are not withdrawn, unless `models=withdraw`. Workers "
    "overwrite all raw rows, remove what identified the records, complete the open requests and "
    "leave a signed receipt. The name stays taken. This cannot be undone.",
)
def delete_dataset(
    dataset: deps.Name,
    caller: Writing,
    session: deps.Session,
    wake: deps.Wake,
    models: Annotated[
        withdrawals.Models, Query(description="what becomes of models that are not withdrawn")
    ] = "keep",
    purge: WhenQuery = "after_window",
) -> Any:
    """Withdraw a dataset."""
    row = ledger_datasets.get(session, dataset)
    if models == "withdraw" and withdrawals.anything_live(session, row):
        _require_promote(caller)
    withdrawals.withdraw_dataset(
        session, row, models=models, purge=purge, actor=caller.actor, now=db.now()
    )
    shown = ledger_datasets.describe(session, row)
    session.commit()
    wake.background()
    return shown


def _model(
    session: deps.Session, wake: deps.Wake, caller: auth.Principal, name: str, purge: Purge
) -> Any:
    row = ledger_models.get(session, name)
    if row.production_id is not None:
        _require_promote(caller)
    withdrawals.withdraw_model(session, row, purge=purge, actor=caller.actor, now=db.now())
    shown = described.model(session, row)
    session.commit()
    wake.background()
    wake.deletions(row.id)
    return shown


def _require_promote(caller: auth.Principal) -> None:
    """Require the scope that decides what is live, because a withdrawal changes it."""
    if not caller.may(Scope.MODELS_PROMOTE):
        raise auth.lacks(Scope.MODELS_PROMOTE)
