"""Shapes of OpenDSR 2.0."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, Field, StringConstraints

from service.api import schemas
from service.api.routes.deletion_requests_schemas import SubjectId
from service.ledger.opendsr import identities
from service.ledger.opendsr.identities import IdentityFormat, IdentityType
from service.ledger.opendsr.requests import New, Status
from service.ledger.selection.regulations import Regulation

#: A UUID of version 4 in lower case.
UUID_PATTERN = r"^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"

MOST_IDENTITIES = 50
MOST_CALLBACKS = 10

SubjectRequestId = Annotated[str, StringConstraints(pattern=UUID_PATTERN)]
EXAMPLE_ID = "a7551968-d5d6-44b2-9831-815ac9017798"


class Identity(schemas.Body):
    """One identity of the person."""

    identity_type: Annotated[IdentityType, Field(strict=False)]
    identity_value: SubjectId = Field(repr=False)
    identity_format: Annotated[IdentityFormat, Field(strict=False)]


class NewRequest(schemas.Body):
    """A data subject request; of its types this processor takes `erasure`."""

    regulation: Literal["gdpr", "ccpa"] = Field(description="by which rule it is due")
    subject_request_id: SubjectRequestId = Field(
        description="your id for it; repeat a call with the same body to get the same answer",
        examples=[EXAMPLE_ID],
    )
    subject_request_type: Literal["erasure", "access", "portability"]
    submitted_time: Annotated[
        AwareDatetime, BeforeValidator(schemas.moment), Field(strict=False)
    ] = Field(
        description="when the person asked, from which the period counts",
        examples=["2026-05-25T00:00:00Z"],
    )
    subject_identities: Annotated[list[Identity], Field(min_length=1, max_length=MOST_IDENTITIES)]
    api_version: Annotated[str, StringConstraints(pattern=r"^2(\.[0-9]{1,3}){0,2}$")] = Field(
        default_factory=str, examples=["2.0"]
    )
    status_callback_urls: Annotated[
        list[Annotated[str, StringConstraints(min_length=1, max_length=2000)]],
        Field(max_length=MOST_CALLBACKS),
    ] = Field(
        default_factory=list, repr=False, description="https URLs that are told of each new state"
    )
    extensions: dict[str, Any] = Field(
        default_factory=dict, repr=False, description="of other processors; they are not read"
    )

    def to_ledger(self, body: str) -> New:
        """Return the request in the ledger's form."""
        return New(
            subject_request_id=self.subject_request_id,
            regulation=Regulation(self.regulation),
            submitted_at=self.submitted_time,
            identities=[
                identities.Identity(one.identity_type, one.identity_format, one.identity_value)
                for one in self.subject_identities
            ],
            callbacks=self.status_callback_urls,
            body=body,
        )


class SupportedIdentity(BaseModel):
    """An identity that can be matched."""

    identity_type: IdentityType
    identity_format: IdentityFormat


class Discovery(BaseModel):
    """What this processor supports."""

    api_version: str = Field(examples=["2.0"])
    supported_identities: list[SupportedIdentity]
    supported_subject_request_types: list[str] = Field(examples=[["erasure"]])
    processor_certificate: str = Field(
        description="where the certificate is whose key signs answers and callbacks"
    )


class Received(BaseModel):
    """A request was recorded; the signature of the body is in `X-OpenDSR-Signature`."""

    controller_id: str = Field(description="name of the API key")
    expected_completion_time: datetime = Field(description="an estimate, not a promise")
    received_time: datetime
    encoded_request: str = Field(description="the body that was sent, base64; do not store it")
    subject_request_id: str = Field(examples=[EXAMPLE_ID])


class State(BaseModel):
    """The state of a request; the signature of the body is in `X-OpenDSR-Signature`."""

    controller_id: str
    expected_completion_time: datetime
    subject_request_id: str = Field(examples=[EXAMPLE_ID])
    request_status: Status
    api_version: str


class Cancelled(BaseModel):
    """A request was cancelled; the signature of the body is in `X-OpenDSR-Signature`."""

    controller_id: str
    subject_request_id: str = Field(examples=[EXAMPLE_ID])
    received_time: datetime = Field(description="when the cancellation was received")
    api_version: str
