"""The audit chain, its signed head, the report of a version, and the keys that check them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Query, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field

from service.api import auth, bodies, deps, negotiation, pagination, problems, schemas
from service.errors import NotFound
from service.ledger.audit import canonical, chain, signing, statements
from service.ledger.database import db
from service.ledger.registry import models, versions
from service.ledger.reports import record_scores, report

SUBJECT_PATTERN = r"^[a-z_]+:[A-Za-z0-9._/-]{1,110}$"

router = bodies.router(tag="audit")
open_router = bodies.router(tag="audit")

KeyId = Annotated[
    str,
    Path(
        pattern=r"^[0-9a-f]{64}$",
        description="SHA-256 of the key's PEM, in hex",
        examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"],
    ),
]
Auditor = Annotated[auth.Principal, auth.require("audit:read")]


class PublicKey(BaseModel):
    """A JSON Web Key (RFC 8037)."""

    kty: str
    crv: str
    use: str
    alg: str
    kid: str
    x: str
    status: str = Field(examples=["current"])
    verifier_key: str = Field(
        description="the same key for the log's checkpoints, as c2sp.org/signed-note has it"
    )


class PublicKeys(BaseModel):
    """The keys under which reports and checkpoints were or are signed."""

    keys: list[PublicKey]


class RecordScores(BaseModel):
    """What attacks say of one forgotten record."""

    record_id: str
    scores: dict[str, dict[str, float | int | None]] = Field(
        description="by metric. Of `calibrated_excess_auc`: `excess`, how far the record's margin "
        "lies above that of models that never saw it, `score`, the rank of its score among "
        "never-seen records alike, and both of the base version (`control_excess`, `control`)"
    )


@router.get(
    "/v1/audit/events",
    response_model=pagination.Page[schemas.AuditEvent],
    summary="What happened, newest first",
)
def events(
    session: deps.Reader,
    _principal: Auditor,
    paging: pagination.Asked,
    subject: Annotated[
        str | None, Query(pattern=SUBJECT_PATTERN, examples=["model:digits-lenet"])
    ] = None,
    action: Annotated[chain.Action | None, Query()] = None,
) -> Response:
    """Return lines of the append-only chain; each holds the hash of the previous line."""
    lines = chain.page(
        session, limit=paging.fetch, before=paging.after(int), subject=subject, action=action
    )
    page = paging.page(lines, key=lambda line: line.seq)
    page["items"] = [chain.describe(line) for line in page["items"]]
    return bodies.answer(page)


@router.get(
    "/v1/audit/checkpoint", response_model=schemas.Signed, summary="The signed head of the chain"
)
def checkpoint(request: Request, session: deps.Reader, _principal: Auditor) -> Response:
    """Return the head to keep: compared with it, a cut or rewritten chain is detected."""
    signer: signing.Signer = request.app.state.signer
    return _canonical(chain.checkpoint(session, signer, now=db.now()))


@router.get(
    "/v1/models/{model}/versions/{number}/audit",
    response_model=schemas.Signed,
    responses={
        **negotiation.described(
            "The report, as signed JSON, as a page to print, or as an in-toto statement in a DSSE "
            "envelope.",
            negotiation.DSSE,
        ),
        **problems.responses(404, 406),
    },
    summary="The signed report of a version",
)
def report_of_version(
    request: Request,
    session: deps.Reader,
    digester: deps.Digests,
    signer: deps.Signer,
    pages: deps.Pages,
    _principal: Auditor,
    model: deps.Name,
    number: deps.Number,
) -> Response:
    """Return the signed report, by the Accept header as JSON, page or DSSE envelope.

    It tells what was requested, what was done, what was measured, what still holds the erased rows,
    and what the report does not prove. Signed are the bytes of the JSON; the page is made of them
    alone, and contains them. The envelope signs an in-toto statement whose predicate,
    `unlearning/v1`, is the signed report. `unlearn audit verify` checks a report in each form.
    """
    version = versions.get(session, models.get(session, model), number)
    form = negotiation.choose(request, (negotiation.JSON, negotiation.HTML, negotiation.DSSE))
    made = report.report(session, version, digester=digester, signer=signer, now=db.now())
    if form == negotiation.DSSE:
        made = statements.envelope(made, signer=signer)
    return negotiation.answer(form, canonical.encode(made), pages.report)


@router.get(
    "/v1/models/{model}/versions/{number}/audit/records",
    response_model=pagination.Page[RecordScores],
    responses=problems.responses(404),
    summary="What attacks say of a version's forgotten records, one by one",
)
def records_of_version(
    session: deps.Reader,
    _principal: Auditor,
    paging: pagination.Asked,
    model: deps.Name,
    number: deps.Number,
) -> Any:
    """Return the scores of the version's batch, of the records whose raw rows still stand.

    Scores are deleted with the raw rows, so a list of a completed deletion is empty. It is of use
    while a version is held, or after one was rejected.
    """
    row = models.get(session, model)
    version = versions.get(session, row, number)
    first = paging.after(int) or 0
    found = record_scores.page(
        session, row.dataset_id, version, limit=paging.fetch, after=max(first, 0)
    )
    numbered = list(enumerate(found, start=max(first, 0) + 1))
    page = paging.page(numbered, key=lambda one: one[0])
    page["items"] = [
        {"record_id": record_id, "scores": scores} for _, (record_id, scores) in page["items"]
    ]
    return page


@open_router.get(
    "/.well-known/unlearning-keys.json",
    response_model=PublicKeys,
    responses=problems.responses(500),
    summary="The public keys of the signatures",
)
async def public_keys(settings: deps.Settings) -> dict[str, Any]:
    """Return a JSON Web Key set; `unlearn audit verify --keys` reads it."""
    return signing.public_keys(settings)


@open_router.get(
    "/.well-known/unlearning-model-signing.pem",
    response_class=PlainTextResponse,
    responses=problems.responses(500),
    summary="The public key of signatures over weights",
)
async def model_signing_key(signer: deps.ModelSigner) -> PlainTextResponse:
    """Return an ECDSA P-256 key as PEM, for `model_signing verify key`."""
    return PlainTextResponse(signer.public_key.decode())


@open_router.get(
    "/.well-known/unlearning-model-signing/{key_id}.pem",
    response_class=PlainTextResponse,
    responses=problems.responses(404),
    summary="A public key of signatures over weights, in force or retired",
)
async def model_signing_key_by_id(keys: deps.ModelSigningKeys, key_id: KeyId) -> PlainTextResponse:
    """Return an ECDSA P-256 key as PEM by its id, the `hint` of the bundles that it signed.

    Keys that were replaced stay here while `UNLEARN_RETIRED_MODEL_SIGNING_KEYS` lists them.
    """
    found = keys.get(key_id)
    if found is None:
        raise NotFound(
            "no published key for weights has this id: it was withdrawn, or never this service's"
        )
    return PlainTextResponse(found.decode())


def _canonical(document: dict[str, Any]) -> Response:
    # The exact bytes that were signed, so that a saved copy can be checked as it is.
    return Response(canonical.encode(document), media_type="application/json")
