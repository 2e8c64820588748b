"""The alias ``production`` over HTTP: its present version, its history, and moving it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field

from service.api import auth, bodies, deps, pagination, problems, schemas
from service.ledger.database import db
from service.ledger.database.tables import AliasMove, Model, Version
from service.ledger.registry import models, versions
from service.ledger.reports import history

router = bodies.router("/v1/models/{model}/aliases/production", tag="versions")

Reading = Annotated[auth.Principal, auth.require("models:read")]
Promoting = Annotated[auth.Principal, auth.require("models:promote")]

VersionNumber = Annotated[int, Field(ge=1, le=2**31 - 1)]


class MoveGiven(schemas.Body):
    """The version to which the alias moves."""

    version: VersionNumber
    expected: VersionNumber | None = Field(
        None, description="the present production version; refused when it is another one"
    )
    reason: str = Field(
        "manual", min_length=1, max_length=40, pattern=r"^[A-Za-z0-9 ._-]+$", examples=["rollback"]
    )


class MoveView(BaseModel):
    """One move of the alias."""

    version: int | None = Field(description="null: the production version was withdrawn")
    previous: int | None
    reason: str
    moved_by: str
    moved_at: datetime


class AliasView(BaseModel):
    """The alias and a page of its history, newest first."""

    alias: str
    model: str
    version: int | None = Field(description="null: nothing is live")
    history: pagination.Page[MoveView]


@router.get(
    "",
    response_model=AliasView,
    responses=problems.responses(404),
    summary="Show which version is live, and which were",
)
def show(model: deps.Name, _: Reading, session: deps.Reader, paging: pagination.Asked) -> Any:
    """Return the live version and a page of the alias' history, newest first."""
    return view(session, models.get(session, model), paging)


@router.put(
    "",
    response_model=AliasView,
    responses=problems.responses(404, 409, 410, 413, 415),
    summary="Make a version live, if it contains no forgotten records",
)
def move(
    model: deps.Name, given: MoveGiven, caller: Promoting, session: deps.Session, wake: deps.Wake
) -> Any:
    """Move the alias. Refused if `expected` is given and is not the live version."""
    row = models.get(session, model)
    version = versions.get(session, row, given.version)
    promote(
        session,
        row,
        version,
        expected=given.expected,
        reason=given.reason,
        actor=caller.actor,
    )
    shown = view(session, row, pagination.Paging(pagination.DEFAULT_PAGE, None))
    session.commit()
    wake.trainings()
    wake.deletions(row.id)
    return shown


def promote(
    session: deps.Session,
    model: Model,
    version: Version,
    *,
    expected: int | None,
    reason: str,
    actor: str,
) -> None:
    """Make a version live; raise ``ProductionMoved`` if ``expected`` is given and is not live.

    Nothing changes if it is live already, in the place of the expected one.
    """
    live = models.production(session, model)
    if live is not None and live.id == version.id:
        last = history.moves(session, model, before=None, limit=1)
        if expected in (None, version.number, _previous(session, last)):
            return
    if expected is not None and (live is None or live.number != expected):
        raise versions.ProductionMoved(
            f"version {expected} is not the production version of {model.name}; look again",
            production=None if live is None else live.number,
        )
    versions.promote(
        session,
        model,
        version,
        expected_production=model.production_id,
        reason=reason,
        actor=actor,
        now=db.now(),
    )


def _previous(session: deps.Session, moves: Sequence[AliasMove]) -> int | None:
    """Return the number of the version that was live before the newest move, if there was one."""
    of_newest = [one.previous_id for one in moves[:1] if one.previous_id is not None]
    return next(iter(history.numbers(session, of_newest).values()), None)


def view(session: deps.Session, model: Model, paging: pagination.Paging) -> dict[str, Any]:
    """Return the alias and a page of its history in their public form."""
    live = models.production(session, model)
    found = history.moves(session, model, before=paging.after(int), limit=paging.fetch)
    page = paging.page(found, key=lambda one: one.id)
    known = history.numbers(
        session, [one for row in page["items"] for one in (row.version_id, row.previous_id)]
    )
    return {
        "alias": "production",
        "model": model.name,
        "version": None if live is None else live.number,
        "history": {**page, "items": [_move(row, known) for row in page["items"]]},
    }


def _move(row: AliasMove, numbers: dict[int, int]) -> dict[str, Any]:
    return {
        "version": numbers.get(row.version_id or 0),
        "previous": numbers.get(row.previous_id or 0),
        "reason": row.reason,
        "moved_by": row.moved_by,
        "moved_at": row.moved_at,
    }
