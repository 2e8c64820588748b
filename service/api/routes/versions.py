"""Versions over HTTP: list, show lineage and measurements, approve."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from fastapi import Query
from pydantic import BaseModel, Field

from service.api import auth, bodies, deps, pagination, problems
from service.ledger.batches import approvals
from service.ledger.database import db
from service.ledger.database.states import VersionStatus
from service.ledger.database.tables import Version
from service.ledger.registry import lineage, models, versions
from service.ledger.registry.keys import Scope
from service.ledger.reports import described, disclosure, history

router = bodies.router("/v1/models/{model}/versions", tag="versions")

Reading = Annotated[auth.Principal, auth.require("models:read")]
Writing = Annotated[auth.Principal, auth.require("models:write")]
Promoting = Annotated[auth.Principal, auth.require("models:promote")]


#: Verdicts, as schemas describe them.
VERDICTS = (
    "passed, failed or no_power of a version that forgot records; exact of one that was trained: "
    "it forgot nothing, so its figures are shown and not judged; imported or failed of one that "
    "was imported, by the rules shown with its figures"
)


class VersionView(BaseModel):
    """One immutable set of weights."""

    number: int
    model: str
    status: VersionStatus
    status_reason: str | None = Field(
        description="why it is in its state, where the state does not say: how far the measurement "
        "of an import is, why it was refused; why and until when a held one waits for approval"
    )
    is_production: bool
    origin: str = Field(description="trained, imported, unlearned or retrained")
    parent: int | None = Field(description="number of the version that it was made from")
    anchor: int | None = Field(description="number of the exact version that its chain starts from")
    data_revision: int = Field(description="revision of the dataset that the anchor was trained on")
    data_rows: int = Field(
        description="rows that the dataset had then, of every split; later ones were appended"
    )
    trained_on: str = Field(
        description="the records that the anchor was trained on, less those excluded at "
        "`data_revision`: `split`, the dataset's train split, or the id of a record list"
    )
    digest: str = Field(description="sha256 of the safetensors file")
    size_bytes: int
    training_run: str | None
    batch: str | None
    method: str | None
    options: dict[str, Any]
    seed: int
    code_version: str
    notes: dict[str, Any]
    timings: dict[str, Any] = Field(description="seconds per step")
    mark: str | None = Field(description="a warning recorded with it, such as no_power")
    verdict: str | None = Field(
        description=f"of its verification: {VERDICTS}; null when it has none"
    )
    created_at: datetime
    published_at: datetime | None
    retired_at: datetime | None
    withdrawn_at: datetime | None
    purge_at: datetime | None = Field(description="when it is destroyed, if it was withdrawn")
    purged_at: datetime | None


class LinkView(BaseModel):
    """One step of a lineage."""

    number: int
    status: VersionStatus
    origin: str
    parent: int | None
    batch: str | None = Field(description="the batch that made it")
    method: str | None
    records: int = Field(description="records that the batch forgot")
    verdict: str | None
    mark: str | None
    digest: str
    created_at: datetime


class VerificationView(BaseModel):
    """The measurements of a version."""

    model: str
    version: int
    verdict: str = Field(description=VERDICTS)
    measured: dict[str, Any] = Field(
        description="metrics, controls, gates; what is about single records, or about fewer than "
        f"{disclosure.LEAST_ROWS} rows, needs audit:read"
    )
    created_at: datetime


@router.get(
    "",
    response_model=pagination.Page[VersionView],
    responses=problems.responses(404),
    summary="List the model's versions, newest first",
)
def listing(
    model: deps.Name,
    _: Reading,
    session: deps.Reader,
    paging: pagination.Asked,
    status: Annotated[VersionStatus | None, Query(description="only those in this state")] = None,
) -> Any:
    """Return a page of the model's versions."""
    row = models.get(session, model)
    found = history.versions(
        session, row, status=status, before=paging.after(int), limit=paging.fetch
    )
    page = paging.page(found, key=lambda version: version.number)
    return {**page, "items": described.versions(session, row, page["items"])}


@router.get(
    "/{number:segment}",
    response_model=VersionView,
    responses=problems.responses(404),
    summary="Show a version",
)
def show(model: deps.Name, number: deps.Number, _: Reading, session: deps.Reader) -> Any:
    """Return a version."""
    row = models.get(session, model)
    return described.versions(session, row, [versions.get(session, row, number)])[0]


@router.get(
    "/{number}/lineage",
    response_model=pagination.Page[LinkView],
    responses=problems.responses(404),
    summary="Show how a version came about: its parents back to the anchor, newest first",
)
def show_lineage(
    model: deps.Name,
    number: deps.Number,
    _: Reading,
    session: deps.Reader,
    paging: pagination.Asked,
) -> Any:
    """Return a page of the version's ancestors up to its anchor."""
    row = models.get(session, model)
    version = versions.get(session, row, number)
    chain = lineage.chain(session, version, before=paging.after(int), limit=paging.fetch)
    page = paging.page(chain, key=lambda link: link.number)
    return {**page, "items": links(session, page["items"])}


@router.get(
    "/{number}/verification",
    response_model=VerificationView,
    responses=problems.responses(404),
    summary="Show what was measured of a version, and the verdict",
)
def show_verification(
    model: deps.Name, number: deps.Number, caller: Reading, session: deps.Reader
) -> Any:
    """Return the measurements, without those that the key may not read."""
    row = models.get(session, model)
    found = history.verification(session, row, versions.get(session, row, number))
    everything = caller.may(Scope.AUDIT_READ)
    return {
        "model": model,
        "version": number,
        "verdict": found.verdict,
        "measured": (
            found.measured if everything else disclosure.measured(found.measured, found.set_changes)
        ),
        "created_at": found.created_at,
    }


@router.post(
    "/{number}:approve",
    response_model=VersionView,
    responses=problems.responses(404, 409),
    summary="Approve a version that is held",
    description="For a version whose batch is `held`, because it lost accuracy or because "
    "memorised records may be left of it: it goes live now, and its deletion requests go on. "
    "Without approval it does so by itself, `hold_margin_days` of the policy before the first of "
    "them is due.",
)
def approve(
    model: deps.Name,
    number: deps.Number,
    caller: Promoting,
    session: deps.Session,
    wake: deps.Wake,
) -> Any:
    """Promote the held version."""
    row = models.get(session, model)
    version = versions.get(session, row, number)
    approvals.approve(session, row, version, actor=caller.actor, now=db.now())
    shown = described.versions(session, row, [version])[0]
    session.commit()
    wake.background()
    wake.deletions(row.id)
    return shown


def links(session: deps.Session, chain: Sequence[Version]) -> list[dict[str, Any]]:
    """Return the steps of a lineage in their public form."""
    parents = history.numbers(session, [row.parent_id for row in chain])
    verdicts = history.verdicts(session, [row.id for row in chain])
    records = history.records(session, [row.batch_id for row in chain if row.batch_id])
    return [
        {
            "number": row.number,
            "status": row.status,
            "origin": row.origin,
            "parent": parents.get(row.parent_id or 0),
            "batch": row.batch_id,
            "method": row.method,
            "records": records.get(row.batch_id or "", 0),
            "verdict": verdicts.get(row.id),
            "mark": row.mark,
            "digest": row.digest,
            "created_at": row.created_at,
        }
        for row in chain
    ]
