"""The weights of a version over HTTP: streamed from the store, whole or a range of bytes.

Not by Starlette's ``FileResponse``, which takes a path: no path leaves the store, and a bucket has
none. It also opens the file after the answer has begun, so that weights destroyed in between would
be a 200 without a body instead of a 503, and it answers a malformed range with 400, not as RFC 9110
lets a server ignore it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, BinaryIO, ClassVar

from fastapi import Header, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from models_store import Store
from models_store import errors as store_errors
from service.api import auth, bodies, deps, problems
from service.errors import ServiceError, Unavailable
from service.ledger.database.tables import Version
from service.ledger.registry import imports, models, versions

router = bodies.router("/v1/models/{model}/versions", tag="versions")

Reading = Annotated[auth.Principal, auth.require("models:read")]

MEDIA_TYPE = "application/vnd.safetensors"
PIECE_BYTES = 1 << 18

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_FILE = {"content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}}


class Bundle(BaseModel):
    """A Sigstore bundle (v0.3) whose envelope signs an in-toto statement."""

    mediaType: str  # noqa: N815  # a name of the format
    verificationMaterial: dict[str, Any]  # noqa: N815  # a name of the format
    dsseEnvelope: dict[str, Any]  # noqa: N815  # a name of the format


class OutOfRange(ServiceError):  # named like its kin in service.errors
    """The requested bytes do not lie in the file."""

    status: ClassVar[int] = 416
    code: ClassVar[str] = "out-of-range"
    title: ClassVar[str] = "The range does not lie in the file"


@dataclass(frozen=True)
class Span:
    """Bytes ``start`` to before ``stop`` of a file."""

    start: int
    stop: int


@router.get(
    "/{number}/checkpoint",
    response_class=Response,
    responses={
        **problems.responses(404, 409, 410),
        200: {"description": "The whole safetensors file.", **_FILE},
        206: {"description": "The requested bytes.", **_FILE},
        304: {"description": "The client has it already."},
        **problems.responses(416),
    },
    summary="Download a version's weights as safetensors",
    description="`ETag` is the sha256 of the file. One byte range is served per request. Versions "
    "that still contain forgotten records are not handed out.",
)
def download(
    model: deps.Name,
    number: deps.Number,
    _: Reading,
    session: deps.Reader,
    store: deps.Store,
    byte_range: Annotated[str | None, Header(alias="Range", max_length=200)] = None,
    if_range: Annotated[str | None, Header(max_length=200)] = None,
    if_none_match: Annotated[str | None, Header(max_length=4000)] = None,
) -> Any:
    """Return the file, the requested range of it, or 304 if the client has it."""
    row = models.get(session, model)
    version = versions.get(session, row, number)
    imports.refuse_download(session, row, version)
    session.close()  # the transfer may take long; hold no transaction open
    etag = f'"{version.digest}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Repr-Digest": _digest_field(version.digest),
    }
    if if_none_match is not None and _matches(if_none_match, etag):
        return Response(status_code=304, headers=headers)
    headers["Content-Disposition"] = f'attachment; filename="{model}-{number}.safetensors"'
    same_file = if_range is None or if_range.strip() == etag
    try:
        span = _span(byte_range if same_file else None, version.size_bytes)
    except OutOfRange as error:
        refusal = problems.render(error)
        refusal.headers["Content-Range"] = f"bytes */{version.size_bytes}"
        return refusal
    return _answer(_open(store, version, span), span, version, headers)


@router.get(
    "/{number}/checkpoint/signature",
    response_model=Bundle,
    responses=problems.responses(404, 409, 410),
    summary="The signature over a version's weights, in the OpenSSF model-signing format",
)
def signature(
    model: deps.Name,
    number: deps.Number,
    _: Reading,
    session: deps.Reader,
    signer: deps.ModelSigner,
) -> Any:
    """Return a Sigstore bundle, made with a key, over the downloaded file.

    `model_signing verify key FILE --signature BUNDLE --public_key KEY` checks it; the key is at
    `/.well-known/unlearning-model-signing.pem`. What is not handed out is not signed either.
    """
    row = models.get(session, model)
    version = versions.get(session, row, number)
    imports.refuse_download(session, row, version)
    return signer.sign(name=f"{model}-{number}", digest=version.digest)


def _answer(
    file: BinaryIO, span: Span | None, version: Version, headers: dict[str, str]
) -> Response:
    size = version.size_bytes
    if span is None:
        headers |= {"Content-Length": str(size), "Content-Digest": _digest_field(version.digest)}
        return StreamingResponse(_read(file), 200, headers, MEDIA_TYPE)
    headers |= {
        "Content-Length": str(span.stop - span.start),
        "Content-Range": f"bytes {span.start}-{span.stop - 1}/{size}",
    }
    return StreamingResponse(_read(file), 206, headers, MEDIA_TYPE)


def _open(store: Store, version: Version, span: Span | None) -> BinaryIO:
    asked = span or Span(0, version.size_bytes)
    try:
        return store.blobs.open("checkpoints", version.digest, asked.start, asked.stop)
    except store_errors.StoreError as error:
        raise Unavailable(
            "the weights of this version cannot be read from the store now; tell the operator",
            retry_after_seconds=60,
        ) from error


def _read(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while piece := file.read(PIECE_BYTES):
            yield piece


def _span(wanted: str | None, size: int) -> Span | None:
    """Return the requested range; None for the whole file, also if the header is not understood.

    RFC 9110, section 14.2, lets a server ignore ranges that it does not support: several at once.
    """
    found = None if wanted is None else _RANGE.fullmatch(wanted.strip())
    if found is None or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    if not first:  # the last so many bytes
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < int(first):
            return None
    if start >= stop:
        raise OutOfRange(f"the file has {size} bytes; ask for a range that lies in it", size=size)
    return Span(start, stop)


def _matches(if_none_match: str, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in tags or etag in tags


def _digest_field(digest: str) -> str:
    """Format a sha256 as RFC 9530 requires: base64 between colons."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(digest)).decode()}:"
