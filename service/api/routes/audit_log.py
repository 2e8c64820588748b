"""The audit chain as a transparency log: signed checkpoints, and proofs against them."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

from fastapi import Query, Request
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field

from service import log_proofs
from service.api import auth, bodies, deps, problems
from service.ledger.audit import log, notes

router = bodies.router("/v1/audit/log", tag="audit")

Auditor = Annotated[auth.Principal, auth.require("audit:read")]
Number = Annotated[int, Query(ge=1, le=2**53 - 1)]
Size = Annotated[
    int | None,
    Query(ge=1, le=2**53 - 1, description="lines of the log that it is about; left out: all"),
]

_CHECKPOINT = Field(description="signed note (c2sp.org/tlog-checkpoint) over the log of this size")
_PROOF = Field(description="hashes in the order of RFC 6962, base64")


class Inclusion(BaseModel):
    """The proof that a line of the chain is in its log."""

    type: Literal["log-inclusion"]
    line: int
    hash: str = Field(description="the line's own hash; its 32 bytes are the log's entry")
    size: int
    root: str = Field(description="base64")
    proof: list[str] = _PROOF
    checkpoint: str = _CHECKPOINT


class Consistency(BaseModel):
    """The proof that the log continues an earlier one: no line was changed or removed."""

    type: Literal["log-consistency"]
    first: int
    first_root: str = Field(description="base64; compare it with the checkpoint that you kept")
    second: int
    second_root: str = Field(description="base64")
    proof: list[str] = _PROOF
    checkpoint: str = _CHECKPOINT


@router.get(
    "/checkpoint",
    response_class=PlainTextResponse,
    responses=problems.responses(409),
    summary="The signed checkpoint of the log",
)
def checkpoint(
    request: Request,
    session: deps.Reader,
    signer: deps.Signer,
    settings: deps.Settings,
    _principal: Auditor,
) -> PlainTextResponse:
    """Return a signed note with the number of lines and the root of their Merkle tree.

    Anybody's program for such logs reads it (c2sp.org/tlog-checkpoint). Keep one elsewhere from
    time to time: a proof of consistency then shows that the log only grew.
    """
    tree = _log(request)
    size = tree.size(session)
    made = notes.Checkpoint(settings.log_origin, size, tree.root(session, size))
    return PlainTextResponse(notes.sign(made, signer.private_key))


@router.get(
    "/inclusion",
    response_model=Inclusion,
    responses=problems.responses(409),
    summary="Prove that a line is in the log",
)
def inclusion(
    request: Request,
    session: deps.Reader,
    signer: deps.Signer,
    settings: deps.Settings,
    _principal: Auditor,
    line: Number,
    size: Size = None,
) -> Any:
    """Return the proof for a line; reports and receipts name lines with their hashes."""
    tree = _log(request)
    count = size or tree.size(session)
    proof = tree.inclusion(session, line, count)
    root = tree.root(session, count)
    signed = notes.Checkpoint(settings.log_origin, count, root)
    return {
        "type": log_proofs.INCLUSION,
        "line": line,
        "hash": tree.line_hash(session, line),
        "size": count,
        "root": _text(root),
        "proof": [_text(one) for one in proof],
        "checkpoint": notes.sign(signed, signer.private_key),
    }


@router.get(
    "/consistency",
    response_model=Consistency,
    responses=problems.responses(409),
    summary="Prove that the log continues an earlier one",
)
def consistency(
    request: Request,
    session: deps.Reader,
    signer: deps.Signer,
    settings: deps.Settings,
    _principal: Auditor,
    first: Number,
    second: Size = None,
) -> Any:
    """Return the proof that the log's first lines are those of a checkpoint of `first` lines."""
    tree = _log(request)
    count = second or tree.size(session)
    proof = tree.consistency(session, first, count)
    root = tree.root(session, count)
    signed = notes.Checkpoint(settings.log_origin, count, root)
    return {
        "type": log_proofs.CONSISTENCY,
        "first": first,
        "first_root": _text(tree.root(session, first)),
        "second": count,
        "second_root": _text(root),
        "proof": [_text(one) for one in proof],
        "checkpoint": notes.sign(signed, signer.private_key),
    }


def _log(request: Request) -> log.Log:
    found: log.Log = request.app.state.log
    return found


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()
