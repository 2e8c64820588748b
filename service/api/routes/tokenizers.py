"""Tokenizers over HTTP: files with which sources of texts are read, named by their digest."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any

import anyio
import anyio.to_thread
from fastapi import Depends, Path, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field

from models_store import errors as store_errors
from models_store.protocols import Saved, Upload
from service.api import auth, bodies, deps, pagination, problems, unused_files, uploads
from service.errors import Unavailable
from service.ledger.database import db
from service.ledger.registry import tokenizers

router = bodies.router("/v1/tokenizers", tag="datasets")

Reading = Annotated[auth.Principal, auth.require("models:read")]
Writing = Annotated[auth.Principal, auth.require("models:write")]
Digest = Annotated[
    str,
    Path(pattern=r"^[0-9a-f]{64}$", description="sha256 of the file", examples=["0123abcd" * 8]),
]

SENT_AS = ("application/json", "application/octet-stream")
#: Checks at a time: each may take a gigabyte for some seconds, in a process of its own.
_CHECKS = anyio.CapacityLimiter(1)
_FILE = {"schema": {"type": "string", "format": "binary"}}


class TokenizerView(BaseModel):
    """A tokenizer.json."""

    model_config = ConfigDict(from_attributes=True)

    digest: str = Field(description="sha256 of the file: a source names it as input.options")
    size_bytes: int
    created_at: datetime


async def _received(
    caller: Writing,  # checks the key before a byte is read
    request: Request,
    settings: deps.Settings,
    store: deps.Store,
) -> AsyncIterator[Saved]:
    async with uploads.received(
        request,
        store,
        max_bytes=min(settings.max_upload_bytes, tokenizers.LARGEST_BYTES),
        leftover_seconds=settings.orphan_grace_seconds,
        media_types=SENT_AS,
        what="the tokenizer.json itself",
    ) as upload:
        await anyio.to_thread.run_sync(_check, upload, limiter=_CHECKS)
        # Before the endpoint, which is repeated after a deadlock: an upload is kept once.
        yield await run_in_threadpool(_kept, upload)


def _check(upload: Upload) -> None:
    with upload.open() as file:
        tokenizers.check(file.read())


@router.post(
    "",
    status_code=201,
    response_model=TokenizerView,
    responses=problems.responses(413, 415),
    summary="Keep a tokenizer.json for sources of texts",
    description="The body is the file as the tokenizers library saves it. The same file sent twice "
    "is one tokenizer. Workers open it when a source is read with it, and refuse the source if "
    "they cannot.",
    openapi_extra={"requestBody": {"required": True, "content": dict.fromkeys(SENT_AS, _FILE)}},
)
def create(
    caller: Writing,
    saved: Annotated[Saved, Depends(_received)],
    session: deps.Session,
    store: deps.Store,
    response: Response,
) -> Any:
    """Store the file, or return the stored one of the same digest."""
    made = tokenizers.register(
        session,
        saved.digest,
        size_bytes=saved.size_bytes,
        is_stored=lambda: store.blobs.exists(tokenizers.KIND, saved.digest),
        actor=caller.actor,
        now=db.now(),
    )
    shown = TokenizerView.model_validate(made)
    session.commit()
    response.headers["Location"] = f"/v1/tokenizers/{made.digest}"
    return shown


@router.get("", response_model=pagination.Page[TokenizerView], summary="List the tokenizers")
def listing(_: Reading, session: deps.Reader, paging: pagination.Asked) -> Any:
    """Return a page of the tokenizers, by digest."""
    rows = tokenizers.page(session, after=paging.after(str), limit=paging.fetch)
    return paging.page(rows, key=lambda row: row.digest)


@router.get(
    "/{digest}",
    response_model=TokenizerView,
    responses=problems.responses(404),
    summary="Show a tokenizer",
)
def show(digest: Digest, _: Reading, session: deps.Reader) -> Any:
    """Return a tokenizer."""
    return tokenizers.get(session, digest)


@router.delete(
    "/{digest}",
    status_code=204,
    responses=problems.responses(404, 409),
    summary="Delete a tokenizer that nothing uses",
    description="409 while a dataset is read with it, or an encoder has it. The file is destroyed.",
)
def remove(digest: Digest, caller: Writing, session: deps.Session, store: deps.Store) -> Response:
    """Remove a tokenizer, and destroy its file."""
    tokenizers.remove(session, digest, actor=caller.actor)
    session.commit()
    unused_files.destroy(session, store, tokenizers.KIND, [digest])
    return Response(status_code=204)


def _kept(upload: Upload) -> Saved:
    try:
        return upload.keep(tokenizers.KIND, {"origin": "upload"})
    except store_errors.Unavailable as error:
        raise Unavailable(
            "the store cannot take the tokenizer now; try again", retry_after_seconds=60
        ) from error
