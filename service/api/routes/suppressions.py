"""Suppressions over HTTP: readmit forgotten subjects or records to later ingests."""

from __future__ import annotations

from typing import Annotated, Any, Self

from fastapi import Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.api import auth, bodies, deps, problems, schemas
from service.api.routes.deletion_requests_schemas import RecordId, SubjectId
from service.errors import TooLarge
from service.ledger.database import db
from service.ledger.requests import readmissions

router = bodies.router("/v1", tag="deletion requests")

Approver = Annotated[auth.Principal, auth.require("requests:approve")]


class Readmission(schemas.Body):
    """What to readmit: one subject in every dataset, or records of one dataset."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": ["subject_id"]}, {"required": ["record_ids"]}],
            "dependentRequired": {"record_ids": ["dataset"], "dataset": ["record_ids"]},
            "examples": [{"subject_id": "person-12"}],
        }
    )

    # Defaults by factory mark a field as absent and do not appear in the document.
    subject_id: SubjectId = Field(default_factory=str, repr=False)
    dataset: schemas.DatasetName = Field(
        default_factory=str, description="the one in which the records were forgotten"
    )
    record_ids: list[RecordId] = Field(default_factory=list, min_length=1, repr=False)

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.model_fields_set not in ({"subject_id"}, {"dataset", "record_ids"}):
            raise ValueError("give either subject_id, or dataset and record_ids")
        return self


class Readmitted(BaseModel):
    """The suppressions that were lifted."""

    lifted: int = Field(description="suppressions that were in force; 0: there were none")


@router.post(
    "/suppressions:readmit",
    response_model=Readmitted,
    responses=problems.responses(404, 413, 415),
    summary="Readmit forgotten subjects or records to later ingests",
)
def readmit(
    given: Readmission,
    caller: Approver,
    session: deps.Session,
    settings: deps.Settings,
    digester: deps.Digests,
) -> Response:
    """Lift suppressions.

    What was forgotten stays forgotten; only later ingests may contain it again. A later deletion
    suppresses it again. May be repeated.
    """
    if len(given.record_ids) > settings.max_records_per_request:
        raise TooLarge(
            f"at most {settings.max_records_per_request} records may be readmitted at once; "
            "split the list"
        )
    common: dict[str, Any] = {"digester": digester, "actor": caller.actor, "now": db.now()}
    if given.subject_id:
        lifted = readmissions.readmit_subject(session, given.subject_id, **common)
    else:
        lifted = readmissions.readmit_records(session, given.dataset, given.record_ids, **common)
    session.commit()
    return bodies.answer({"lifted": lifted})
