"""Versions over HTTP that were trained elsewhere: receive a checkpoint, check and register it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from models_store import errors as store_errors
from models_store import safetensors_check
from models_store.protocols import Saved
from models_store.protocols import Upload as Received
from service.api import auth, bodies, deps, problems, uploads
from service.api.routes import versions
from service.errors import TooLarge, Unavailable, Unprocessable
from service.ledger.database import db
from service.ledger.registry import imports, models
from service.ledger.registry.keys import Scope
from service.ledger.reports import described

router = bodies.router("/v1/models/{model}/versions", tag="versions")

RETRY_AFTER_SECONDS = 2

_BINARY = {"schema": {"type": "string", "format": "binary"}}


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
    caller: versions.Writing,  # checks the key before a byte is read
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
    response_model=versions.VersionView,
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
    caller: versions.Writing,
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
