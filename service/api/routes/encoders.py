"""Encoders over HTTP: named here, checked and stored by a worker."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import Response
from pydantic import BaseModel, Field

from service import sources
from service.api import auth, bodies, deps, pagination, problems, schemas, unused_files
from service.ledger.database import db
from service.ledger.database.states import EncoderStatus
from service.ledger.database.tables import Encoder
from service.ledger.registry import encoders

router = bodies.router("/v1/encoders", tag="models")

Reading = Annotated[auth.Principal, auth.require("models:read")]
Writing = Annotated[auth.Principal, auth.require("models:write")]

RETRY_AFTER_SECONDS = 2


class DirectoryGiven(schemas.Body):
    """A directory under the server's data root, or in a bucket."""

    path: str = Field(
        min_length=1,
        max_length=1024,
        description="relative to the configured data root, or s3://bucket/… where the settings "
        "allow it; it holds config.json, model.safetensors and tokenizer.json, or of an encoder of "
        "images preprocessor_config.json",
        examples=["encoders/minilm"],
    )


class EncoderGiven(schemas.Body):
    """An encoder that was trained elsewhere."""

    name: schemas.DatasetName = Field(examples=["minilm"])
    source: DirectoryGiven
    statement: str = Field(
        min_length=1,
        max_length=2_000,
        description="what it was trained on, and whether with data of the subjects: reports repeat "
        "it, and the service cannot check it",
    )


class FactsView(BaseModel):
    """What the encoder is."""

    kind: str = Field(description="model_type of its config.json")
    width: int = Field(description="numbers for each token")
    layers: int
    parameters: int
    size_bytes: int = Field(description="of its weights")
    vocabulary: int | None = Field(None, description="of texts: token ids that it takes")
    length: int | None = Field(None, description="of texts: tokens of a row that it takes")
    pad: int | None = Field(None, description="of texts: token id that fills rows up")
    channels: int | None = Field(None, description="of images: channels that they have")
    image_height: int | None = Field(
        None, description="of images: pixels, to which every image is resized"
    )
    image_width: int | None = None


class EncoderView(BaseModel):
    """An encoder."""

    name: str
    status: EncoderStatus
    error: str | None = Field(description="why its files were refused")
    source: dict[str, Any]
    statement: str = Field(description="what the operator says of the data it was trained on")
    digest: str | None = Field(
        description="of all its files: architecture.parameters.encoder of models names it"
    )
    weights: str | None = Field(description="sha256 of model.safetensors")
    tokenizer: str | None = Field(
        description="sha256 of its tokenizer.json, with which its datasets are read; an encoder of "
        "images has none"
    )
    facts: FactsView | None
    created_at: datetime
    ready_at: datetime | None


@router.post(
    "",
    status_code=202,
    response_model=EncoderView,
    responses=problems.responses(409, 413, 415),
    summary="Add an encoder that was trained elsewhere; a worker checks its files",
    description="The directory is in the form of the Hugging Face hub: config.json, "
    "model.safetensors and tokenizer.json, or preprocessor_config.json. No code and no pickle is "
    "read, and nothing is fetched.",
)
def create(
    given: EncoderGiven,
    caller: Writing,
    session: deps.Session,
    settings: deps.Settings,
    wake: deps.Wake,
    response: Response,
) -> Any:
    """Queue the check of a directory."""
    sources.check(settings.sources, settings.allowed_buckets, given.source.path)
    made = encoders.create(
        session,
        given.name,
        source=given.source.model_dump(),
        statement=given.statement,
        actor=caller.actor,
        now=db.now(),
    )
    shown = view(made)
    session.commit()
    wake.deletions()
    response.headers["Location"] = f"/v1/encoders/{made.name}"
    response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return shown


@router.get("", response_model=pagination.Page[EncoderView], summary="List the encoders")
def listing(_: Reading, session: deps.Reader, paging: pagination.Asked) -> Any:
    """Return a page of the encoders, by name."""
    rows = encoders.page(session, after=paging.after(str), limit=paging.fetch)
    page = paging.page(rows, key=lambda row: row.name)
    return {**page, "items": [view(row) for row in page["items"]]}


@router.get(
    "/{encoder}",
    response_model=EncoderView,
    responses=problems.responses(404),
    summary="Show an encoder, and how far its check is",
)
def show(encoder: deps.Name, _: Reading, session: deps.Reader) -> Any:
    """Return an encoder."""
    return view(encoders.get(session, encoder))


@router.delete(
    "/{encoder}",
    status_code=204,
    responses=problems.responses(404, 409),
    summary="Delete an encoder that nothing uses",
    description="409 while a model that is not withdrawn is built on it, or a dataset holds "
    "features of it. Its files are destroyed; its tokenizer stays, see DELETE "
    "/v1/tokenizers/{digest}.",
)
def remove(
    encoder: deps.Name, caller: Writing, session: deps.Session, store: deps.Store
) -> Response:
    """Remove an encoder, and destroy its files unless another name has the same."""
    files = encoders.remove(session, encoders.get_locked(session, encoder), actor=caller.actor)
    session.commit()
    unused_files.destroy(session, store, encoders.KIND, files)
    return Response(status_code=204)


def view(row: Encoder) -> dict[str, Any]:
    """Return an encoder in its public form."""
    same = ("name", "status", "error", "source", "statement", "digest", "facts")
    return {
        **{field: getattr(row, field) for field in (*same, "created_at", "ready_at")},
        "weights": row.weights_digest,
        "tokenizer": row.tokenizer_digest,
    }
