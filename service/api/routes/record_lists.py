"""Record ids over HTTP: download those of a split, upload lists of those trained on elsewhere.

Both directions use one form, a JSON string on each line, so that a download can be sent back.
Reading them needs ``models:write``, as importing does: a record's id may tell whose record it is,
and clients that only read models have no use for it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Depends, Query, Request, Response
from fastapi import Path as InPath
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from models_store.protocols import Upload
from service.api import auth, bodies, deps, problems, uploads
from service.errors import Unprocessable
from service.ledger.database import db
from service.ledger.database.tables import Dataset, RecordList
from service.ledger.registry import datasets
from service.ledger.selection import record_lists

router = bodies.router("/v1/datasets/{dataset}", tag="datasets")

Writing = Annotated[auth.Principal, auth.require("models:write")]
ListId = Annotated[str, InPath(pattern=r"^rl_[0-9a-z]{26}$", description="id of the list")]

MEDIA_TYPE = "application/x-ndjson"
#: Also accepted, because many tools send text under this type.
SENT_AS = (MEDIA_TYPE, "text/plain")
REVISION_HEADER = "Data-Revision"
MAX_LINE_BYTES = 16_384

_LINES = {"schema": {"type": "string", "description": "a JSON string on each line"}}


class RecordListView(BaseModel):
    """Records of a dataset that a training elsewhere used."""

    id: str = Field(description="give it as `trained_on` when importing a version")
    dataset: str
    records: int
    digest: str = Field(description="sha256 of its rows")
    splits: dict[str, int] = Field(description="its records in train, validation and audit")
    created_at: datetime


async def _received(
    dataset: deps.Name,
    caller: Writing,  # checks the key before a byte is read
    request: Request,
    settings: deps.Settings,
    store: deps.Store,
) -> AsyncIterator[Upload]:
    async with uploads.received(
        request,
        store,
        max_bytes=settings.max_upload_bytes,
        leftover_seconds=settings.orphan_grace_seconds,
        media_types=SENT_AS,
        what="record ids, a JSON string on each line",
    ) as upload:
        yield upload


@router.get(
    "/record-ids",
    response_class=Response,
    responses={
        **problems.responses(404, 409, 410),
        200: {
            "description": "One id on each line, by row.",
            "content": {MEDIA_TYPE: _LINES},
            "headers": {
                REVISION_HEADER: {
                    "schema": {"type": "integer"},
                    "description": "of the dataset; give it as `data_revision` when importing",
                }
            },
        },
    },
    summary="List the ids of a split's records, less those taken out of training",
)
def list_ids(
    dataset: deps.Name,
    _: Writing,
    session: deps.Reader,
    request: Request,
    split: Annotated[Literal["train", "validation", "audit"], Query()] = "train",
) -> Response:
    """Stream the ids; those of rows excluded after the revision in the header may be missing."""
    row = datasets.get_ready(session, dataset)
    # The revision first: rows excluded from here on are missing, and the import will notice.
    headers = {REVISION_HEADER: str(row.revision)}
    return StreamingResponse(_lines(request, row.id, split), 200, headers, MEDIA_TYPE)


@router.post(
    "/record-lists",
    status_code=201,
    response_model=RecordListView,
    responses=problems.responses(404, 409, 410, 413, 415),
    summary="Keep a list of the records that a training elsewhere used",
    description="The body holds a JSON string on each line, as `record-ids` gives them. The same "
    "records sent twice are one list. Ids that name no record are refused by their positions.",
    openapi_extra={"requestBody": {"required": True, "content": dict.fromkeys(SENT_AS, _LINES)}},
)
def create(
    dataset: deps.Name,
    caller: Writing,
    upload: Annotated[Upload, Depends(_received)],
    session: deps.Session,
    response: Response,
) -> Any:
    """Store the list, or return the stored list of the same records."""
    row = datasets.get_ready(session, dataset)
    made = record_lists.create(session, row, _ids(upload), actor=caller.actor, now=db.now())
    shown = _view(session, row, made)
    session.commit()
    response.headers["Location"] = f"/v1/datasets/{dataset}/record-lists/{made.id}"
    return shown


@router.get(
    "/record-lists/{list_id}",
    response_model=RecordListView,
    responses=problems.responses(404),
    summary="Show a record list",
)
def show(
    dataset: deps.Name,
    list_id: ListId,
    _: Annotated[auth.Principal, auth.require("models:read")],
    session: deps.Reader,
) -> Any:
    """Return a record list with its counts, without its ids."""
    row = datasets.get(session, dataset)
    return _view(session, row, record_lists.get(session, row, list_id))


def _lines(request: Request, dataset_id: int, split: str) -> Iterator[str]:
    # A session of its own: the endpoint's is closed before the first line is sent.
    with request.app.state.sessions() as opened:
        session = db.read_only(opened)
        row = session.get_one(Dataset, dataset_id)
        for record_id in record_lists.ids_of(session, row, split=split):
            yield json.dumps(record_id, ensure_ascii=False) + "\n"


def _ids(upload: Upload) -> Iterator[str]:
    """Yield the ids of an upload; an error names the line and quotes nothing."""
    with upload.open() as lines:
        number = 0
        while line := lines.readline(MAX_LINE_BYTES):
            number += 1
            if not line.strip():
                continue
            try:
                found = bodies.parse(line)
            except (bodies.UnreadableBody, Unprocessable):
                found = None
            if not isinstance(found, str):
                raise Unprocessable(
                    f"line {number} is not a JSON string; write each record id in double quotes "
                    "on a line of its own"
                )
            yield found


def _view(session: deps.Session, dataset: Dataset, found: RecordList) -> dict[str, Any]:
    return {
        "id": found.id,
        "dataset": dataset.name,
        "records": found.records,
        "digest": found.digest,
        "splits": record_lists.splits(session, found),
        "created_at": found.created_at,
    }
