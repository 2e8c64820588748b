"""Versions over HTTP: import, list, show lineage and measurements, approve."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from fastapi import Depends, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from models_store import errors as store_errors
from models_store import safetensors_check
from models_store.protocols import Saved
from models_store.protocols import Upload as Received
from service.api import auth, bodies, deps, pagination, problems, uploads
from service.errors import TooLarge, Unavailable, Unprocessable
from service.ledger.batches import holds
from service.ledger.database import db
from service.ledger.database.states import VersionStatus
from service.ledger.database.tables import Version
from service.ledger.registry import imports, lineage, models, versions
from service.ledger.registry.keys import Scope
from service.ledger.reports import described, disclosure, history

router = bodies.router("/v1/models/{model}/versions", tag="versions")

Reading = Annotated[auth.Principal, auth.require("models:read")]
Writing = Annotated[auth.Principal, auth.require("models:write")]
Promoting = Annotated[auth.Principal, auth.require("models:promote")]

RETRY_AFTER_SECONDS = 2

#: Verdicts, as schemas describe them.
VERDICTS = (
    "passed, failed or no_power of a version that forgot records; exact of one that was trained: "
    "it forgot nothing, so its figures are shown and not judged; imported or failed of one that "
    "was imported, by the rules shown with its figures"
)

_BINARY = {"schema": {"type": "string", "format": "binary"}}


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


@dataclass
class Upload:
    """A received checkpoint that fits the model."""

    received: Received
    data_revision: int
    trained_on: str
    promote: bool | None
    #: Set once it is in the store.
    saved: Saved | None = None


DataRevision = Annotated[
    int | None,
    Query(
        ge=0,
        le=2**31 - 1,
        description="the dataset's revision whose train split it was trained on; 0: on all of it; "
        "left out: 0; a record list takes its place",
    ),
]

TrainedOn = Annotated[
    str,
    Query(
        pattern=r"^(split|rl_[0-9a-z]{26})$",
        description="which records it was trained on: `split`, the dataset's train split "
        "(`GET /v1/datasets/{dataset}/record-ids` lists them), or the id of a record list "
        "(`POST /v1/datasets/{dataset}/record-lists`)",
    ),
]


Promote = Annotated[
    bool | None,
    Query(
        description="make it live, which needs models:promote; left out: only if no version is "
        "live yet and the key has that scope",
    ),
]


#: Parameters that say which rows an imported version was trained on.
_ROWS = ("data_revision", "trained_on")


async def _upload(
    model: deps.Name,
    caller: Writing,  # checks the key before a byte is read
    request: Request,
    settings: deps.Settings,
    store: deps.Store,
    data_revision: DataRevision = None,
    trained_on: TrainedOn = imports.SPLIT,
    promote: Promote = None,
) -> AsyncIterator[Upload]:
    may_promote = caller.may(Scope.MODELS_PROMOTE)
    if promote and not may_promote:
        raise auth.lacks(Scope.MODELS_PROMOTE)
    if data_revision is not None and trained_on != imports.SPLIT:
        raise _says_both()
    stated = {"data_revision": data_revision or 0, "trained_on": trained_on}
    spec, tied = await run_in_threadpool(_refuse_early, request, model, stated)
    async with uploads.received(
        request,
        store,
        max_bytes=settings.max_upload_bytes,
        leftover_seconds=settings.orphan_grace_seconds,
    ) as received:
        await run_in_threadpool(_check, received, spec, tied, settings.max_upload_bytes)
        # Known weights that hold forgotten records must not reach the store at all.
        digest = await run_in_threadpool(received.sha256)
        await run_in_threadpool(_refuse_early, request, model, stated, digest)
        yield Upload(received, data_revision or 0, trained_on, promote if may_promote else False)


def _says_both() -> Unprocessable:
    reason = "names the rows that the weights were trained on; give one of the two"
    return Unprocessable(
        "the rows are named twice, by data_revision and by trained_on: a record list takes the "
        "place of a revision of the train split, so leave data_revision out, or give "
        "trained_on=split",
        fields=[{"field": f"query.{one}", "reason": reason} for one in _ROWS],
    )


def _refuse_early(
    request: Request, model: str, stated: Mapping[str, Any], digest: str | None = None
) -> tuple[safetensors_check.Spec, safetensors_check.Ties]:
    """Return what the file must contain; refuse what can be refused before it is stored.

    Uses a transaction of its own, because none may stay open during an upload.
    """
    with request.app.state.sessions() as session:
        row = models.get(session, model)
        spec = models.require_parameters(row)
        imports.check(session, row, **stated, digest=digest)
        return spec, row.tied or []


def _check(
    received: Received,
    spec: safetensors_check.Spec,
    tied: safetensors_check.Ties,
    max_bytes: int,
) -> None:
    try:
        with received.open() as stream:
            safetensors_check.check(stream, received.size_bytes, spec, max_bytes, tied=tied)
    except store_errors.UploadTooLarge as error:
        raise TooLarge(str(error)) from error
    except store_errors.UploadMismatch as error:
        raise Unprocessable(str(error), reasons=error.reasons[:100]) from error
    except store_errors.UploadError as error:
        raise Unprocessable(str(error)) from error


@router.post(
    "",
    status_code=201,
    response_model=VersionView,
    responses=problems.responses(404, 409, 410, 413, 415),
    summary="Import a checkpoint that was trained elsewhere",
    description="The body is a safetensors file with exactly the tensors that the model's "
    "`parameters` name. It becomes an anchor of its own. A worker measures it "
    "first, in seconds to minutes: poll `Location` until its status is no longer `candidate`; "
    "`status_reason` says how far it is and why it was refused. Give the `data_revision` of the "
    "dataset that it was trained on: weights that saw records forgotten since are refused.",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": dict.fromkeys(uploads.MEDIA_TYPES, _BINARY),
        }
    },
)
def create(
    model: deps.Name,
    caller: Writing,
    upload: Annotated[Upload, Depends(_upload)],
    session: deps.Session,
    store: deps.Store,
    wake: deps.Wake,
    response: Response,
) -> Any:
    """Register the checkpoint as a candidate; a worker measures it and decides."""
    saved = _kept(upload, model)
    row = models.get(session, model)
    version = imports.register(
        session,
        row,
        digest=saved.digest,
        size_bytes=saved.size_bytes,
        data_revision=upload.data_revision,
        trained_on=upload.trained_on,
        promote=upload.promote,
        is_stored=lambda: store.blobs.exists("checkpoints", saved.digest),
        actor=caller.actor,
        now=db.now(),
    )
    shown = described.versions(session, row, [version])[0]
    session.commit()
    wake.trainings()
    wake.deletions(row.id)
    response.headers["Location"] = f"/v1/models/{model}/versions/{version.number}"
    response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return shown


def _kept(upload: Upload, model: str) -> Saved:
    """Return the upload as stored; it is stored once, however often this is called."""
    if upload.saved is None:
        try:
            upload.saved = upload.received.keep(
                "checkpoints", {"model": model, "origin": "imported"}
            )
        except store_errors.Unavailable as error:
            raise Unavailable(
                "the store cannot take the checkpoint now; try again", retry_after_seconds=60
            ) from error
    return upload.saved


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
    holds.approve(session, row, version, actor=caller.actor, now=db.now())
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
