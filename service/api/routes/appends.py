"""Rows that are added to a dataset, over HTTP: asked for here, read by a worker."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Header, Path, Response
from pydantic import BaseModel, Field
from sqlalchemy.exc import IntegrityError

from service import sources
from service.api import auth, bodies, deps, pagination, problems, schemas
from service.api.routes import inspections
from service.api.routes.datasets import RETRY_AFTER_SECONDS, FractionsGiven, Reading, SourceGiven
from service.api.routes.deletion_requests_schemas import KEY_PATTERN
from service.ledger.database import db
from service.ledger.database.states import AppendStatus
from service.ledger.database.tables import Dataset
from service.ledger.registry import appends, datasets
from service.ledger.requests import idempotency
from service.ledger.selection.digests import Digester

router = bodies.router("/v1/datasets/{dataset}", tag="datasets")

Writing = Annotated[auth.Principal, auth.require("models:write")]
AppendId = Annotated[str, Path(pattern=r"^ap_[0-9a-z]{26}$", description="id of the append")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        pattern=KEY_PATTERN,
        description="repeat a call with the same key and body to get the same append, once",
    ),
]


class RowsGiven(schemas.Body):
    """A source whose rows join the dataset, read as the dataset's own source was."""

    source: SourceGiven
    existing: Literal["refuse", "skip"] = Field(
        "refuse",
        description="what is done if the dataset has some of the record ids, also of forgotten "
        "records: refuse the source, or skip these rows and count them",
    )
    seed: int | None = Field(
        None, ge=0, le=2**63 - 1, description="of the drawn splits; left out: the dataset's"
    )
    fractions: FractionsGiven | None = Field(
        None,
        description="shares of the splits if no column says them; left out: the dataset's",
    )
    dry_run: bool = Field(
        False,
        description="only read and check the source: the answer is an inspection that shows how "
        "many rows would join, and how many not, and nothing else is kept",
    )


class AppendView(BaseModel):
    """Rows that are added to a dataset."""

    id: str = Field(examples=["ap_01k0c9v5d6t7m8n9p0q1r2s3t4"])
    dataset: str
    status: AppendStatus
    progress: float = Field(description="0 to 1")
    error: str | None = Field(description="why the source was refused: row, column, reason")
    source: dict[str, Any]
    existing: Literal["refuse", "skip"]
    rows: int | None = Field(description="rows that joined the dataset; null: not known yet")
    splits: dict[str, int] | None = Field(description="of these, by split")
    notes: inspections.NotesView | None = Field(
        description="how the source was read, and how many rows were left out"
    )
    revision: int | None = Field(
        description="the dataset's revision from which on it has the rows: trainings that begin "
        "at it or later read them; null: not completed, or no row joined"
    )
    created_at: datetime
    finished_at: datetime | None


@router.post(
    "/rows",
    status_code=202,
    response_model=AppendView | inspections.InspectionView,
    responses=problems.responses(404, 409, 410, 413, 415),
    summary="Add the rows of a source to a dataset, or inspect it (dry_run); a worker reads it",
)
def append(
    dataset: deps.Name,
    given: RowsGiven,
    caller: Writing,
    session: deps.Session,
    settings: deps.Settings,
    digester: deps.Digests,
    wake: deps.Wake,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> Any:
    """Queue a source whose rows join the dataset.

    It is read with the columns, kind of input, classes and treatment of ids of the dataset's own
    source, and refused if it does not have them. Rows of forgotten people, forgotten rows and rows
    of forgotten classes are left out and counted. The dataset is unchanged until all rows join it
    at once; with that its revision grows. Live versions stay as they are; trainings that begin
    afterwards read the new rows too.
    """
    sources.check(settings.sources, settings.allowed_buckets, given.source.path)
    found = datasets.get_ready(session, dataset)
    response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    if given.dry_run:
        appends.require_growing(found)
        asked = inspections.ask(
            session, {**_source(given), "append_to": found.name, "existing": given.existing}
        )
        session.commit()
        wake.background()
        response.headers["Location"] = f"/v1/dataset-inspections/{asked.id}"
        return asked
    claim = (
        None if idempotency_key is None else _claim(given, found, caller, digester, idempotency_key)
    )
    shown = None if claim is None else _earlier(session, found, claim)
    if shown is None:
        shown = _queued(session, found, given, caller, claim)
        wake.background()
    else:
        response.headers["Idempotency-Replayed"] = "true"
    response.headers["Location"] = f"/v1/datasets/{found.name}/appends/{shown['id']}"
    return shown


@router.get(
    "/appends",
    response_model=pagination.Page[AppendView],
    responses=problems.responses(404),
    summary="List the appends of a dataset, newest first",
)
def listing(dataset: deps.Name, _: Reading, session: deps.Reader, paging: pagination.Asked) -> Any:
    """Return a page of the dataset's appends."""
    found = datasets.get(session, dataset)
    rows = appends.page(session, found, before=paging.after(str), limit=paging.fetch)
    shown = [appends.describe(one, found) for one in rows]
    return paging.page(shown, key=lambda one: str(one["id"]))


@router.get(
    "/appends/{append}",
    response_model=AppendView,
    responses=problems.responses(404),
    summary="Show an append: how far it is, how many rows joined, how many were left out",
)
def show(dataset: deps.Name, append: AppendId, _: Reading, session: deps.Reader) -> Any:
    """Return an append of the dataset."""
    found = datasets.get(session, dataset)
    return appends.describe(appends.get(session, found, append), found)


def _queued(
    session: deps.Session,
    dataset: Dataset,
    given: RowsGiven,
    caller: auth.Principal,
    claim: idempotency.Claim | None,
) -> dict[str, Any]:
    """Queue the append and commit; one that was queued under the same key meanwhile is shown."""
    made = appends.create(
        session,
        dataset,
        source=_source(given),
        existing=given.existing,
        actor=caller.actor,
        now=db.now(),
    )
    shown = appends.describe(made, dataset)
    if claim is not None:
        session.add(idempotency.remember(claim, {"id": made.id}, now=db.now()))
    try:
        session.commit()
    except IntegrityError:
        session.rollback()
        earlier = None if claim is None else _earlier(session, dataset, claim)
        if earlier is None:
            raise
        return earlier
    return shown


def _earlier(
    session: deps.Session, dataset: Dataset, claim: idempotency.Claim
) -> dict[str, Any] | None:
    """Return the append that was queued under the same key; None: none was."""
    row = idempotency.answers(session, [claim]).get((claim.principal, claim.key))
    if row is None:
        return None
    answer = idempotency.replay(row, claim)
    return appends.describe(appends.get(session, dataset, answer["id"]), dataset)


def _claim(
    given: RowsGiven,
    dataset: Dataset,
    caller: auth.Principal,
    digester: Digester,
    key: str,
) -> idempotency.Claim:
    said = {"append_to": dataset.name, **given.model_dump(mode="json", exclude_unset=True)}
    digests = digester.bodies(caller.key_id, json.dumps(said, sort_keys=True))
    return idempotency.Claim(caller.key_id, key, digests)


def _source(given: RowsGiven) -> dict[str, Any]:
    """Return what is asked of the source, without what is left to the dataset."""
    own = given.model_dump(mode="json", include={"seed", "fractions"}, exclude_none=True)
    return {**given.source.model_dump(mode="json", exclude_none=True), **own}
