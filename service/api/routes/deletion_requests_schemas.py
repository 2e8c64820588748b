"""Shapes of deletion requests."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from service.api import schemas
from service.api.problems import Problem
from service.ledger.database import identifiers
from service.ledger.database.states import ErasureStatus, RequestStatus
from service.ledger.requests.deadlines import ExtensionReason
from service.ledger.requests.legal_holds import HoldReason
from service.ledger.requests.lifecycle import DenialReason
from service.ledger.selection.matching import Ask
from service.ledger.selection.regulations import Period, Regulation

MAX_BATCH = 1_000
KEY_PATTERN = r"^[!-~]{1,200}$"


def _shows(text: str) -> str:
    if not identifiers.normalise(text):
        raise ValueError("an id needs a visible character; correct it")
    return text


_SHOWS = (AfterValidator(_shows), Field(json_schema_extra={"pattern": r"\S"}))
RecordId = Annotated[str, StringConstraints(min_length=1, max_length=255), *_SHOWS]
SubjectId = Annotated[str, StringConstraints(min_length=1, max_length=1000), *_SHOWS]
_ITEM = "#/components/schemas/NewBatchItem"
_WAYS = ("record_ids", "subject_id", "label", "class_name")


class NewDeletionRequest(schemas.Body):
    """What to forget, said in one of four ways.

    By ``record_ids``, ``subject_id``, ``label`` or ``class_name``.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": [way]} for way in _WAYS],
            "anyOf": [{"required": ["dataset"]}, {"required": ["subject_id"]}],
            "examples": [
                {"subject_id": "person-12"},
                {"dataset": "digits", "record_ids": ["r00017", "r00042"]},
                {"dataset": "digits", "subject_id": "person-12", "reason": "GDPR Art. 17"},
            ],
        }
    )

    # Defaults by factory mark a field as absent and do not appear in the document.
    dataset: schemas.DatasetName = Field(
        default_factory=str,
        description="left out, with `subject_id`: every dataset that has subject ids",
    )
    record_ids: list[RecordId] = Field(
        default_factory=list, min_length=1, repr=False, description="ids of single records"
    )
    subject_id: SubjectId = Field(
        default_factory=str, repr=False, description="everything about one subject"
    )
    label: Annotated[int, Field(ge=0, le=2**31 - 1)] = Field(
        default_factory=lambda: -1, description="every record of one class, by its number"
    )
    class_name: Annotated[str, StringConstraints(min_length=1, max_length=1000)] = Field(
        default_factory=str,
        description="the same by its name, where the dataset's source named its classes "
        "(`class_names` of `GET /v1/datasets/{dataset}`)",
    )
    reason: Annotated[str, StringConstraints(max_length=2000)] | None = Field(None, repr=False)
    client_reference: Annotated[str, StringConstraints(max_length=255)] | None = Field(
        None, repr=False, description="your own name for this request"
    )
    regulation: Annotated[Regulation, Field(strict=False)] = Field(
        default_factory=lambda: Regulation.GDPR,
        description="by which rule it is due: gdpr, one calendar month; ccpa, 45 days; custom, "
        "`due_days`. Left out: as the service is set up (UNLEARN_REGULATION)",
    )
    due_days: Annotated[int, Field(ge=1, le=3650)] = Field(
        default_factory=lambda: 0, description="days until it is due; with `regulation` custom"
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if len(self.model_fields_set.intersection(_WAYS)) != 1:
            raise ValueError("give exactly one of record_ids, subject_id, label and class_name")
        if not self.model_fields_set.intersection(("dataset", "subject_id")):
            raise ValueError("name the dataset; only subject_id may be requested in all of them")
        custom = "regulation" in self.model_fields_set and self.regulation == Regulation.CUSTOM
        if custom != ("due_days" in self.model_fields_set):
            raise ValueError("give due_days with regulation custom, and with no other")
        return self

    def ask(self, usual: Period) -> Ask:
        """Return the request in the ledger's form; ``usual``: the period if it names none."""
        given = self.model_fields_set
        return Ask(
            dataset=self.dataset if "dataset" in given else None,
            kind=(
                "records"
                if "record_ids" in given
                else "subject"
                if "subject_id" in given
                else "class"
            ),
            record_ids=tuple(self.record_ids),
            subject_id=self.subject_id if "subject_id" in given else None,
            label=self.label if "label" in given else None,
            class_name=self.class_name if "class_name" in given else None,
            reason=self.reason,
            client_reference=self.client_reference,
            period=(
                Period(self.regulation, self.due_days or None) if "regulation" in given else usual
            ),
        )


class NewBatchItem(NewDeletionRequest):
    """A deletion request in a batch, with its own idempotency key."""

    idempotency_key: Annotated[str, StringConstraints(pattern=KEY_PATTERN)] | None = None


class NewBatch(schemas.Body):
    """Up to 1,000 deletion requests; each is accepted or refused on its own."""

    # Items are validated one by one, so that an invalid one does not fail the others.
    items: list[Any] = Field(
        min_length=1,
        max_length=MAX_BATCH,
        json_schema_extra={"items": {"anyOf": [{"$ref": _ITEM}, {"description": "refused"}]}},
    )


class Denial(schemas.Body):
    """Why a request is denied."""

    reason_code: Annotated[DenialReason, Field(strict=False)] = DenialReason.OTHER
    reason: Annotated[str, StringConstraints(max_length=2000)] | None = None


class Placing(schemas.Body):
    """Why a legal hold is placed."""

    reason_code: Annotated[HoldReason, Field(strict=False)]
    reason: Annotated[str, StringConstraints(min_length=1, max_length=2000)] = Field(repr=False)


class Releasing(schemas.Body):
    """Why a legal hold is released."""

    reason: Annotated[str, StringConstraints(min_length=1, max_length=2000)] = Field(repr=False)


class LegalHold(BaseModel):
    """A legal hold, in force or released."""

    id: str = Field(examples=["lh_01k0c9m2vq8f4t6x3z5b7n1r9d"])
    reason_code: HoldReason
    reason: str
    placed_by: str
    placed_at: datetime
    released_by: str | None
    released_at: datetime | None = Field(description="null: it is in force")
    release_reason: str | None


class ListedHold(LegalHold):
    """A legal hold with the request that it keeps."""

    request: str = Field(examples=["dr_01k0c9m2vq8f4t6x3z5b7n1r9d"])
    request_status: RequestStatus
    due_at: datetime = Field(description="of the request; a hold does not move it")


class Extension(schemas.Body):
    """By how much, and why, a request is extended."""

    periods: int = Field(
        1, ge=1, le=2, description="calendar months (gdpr: two in all), or 45 days (ccpa: once)"
    )
    reason_code: Annotated[ExtensionReason, Field(strict=False)]
    reason: Annotated[str, StringConstraints(min_length=1, max_length=2000)] = Field(
        description="what the person is told", repr=False
    )


class Erasure(BaseModel):
    """The state of a request on one model."""

    model: str
    status: ErasureStatus
    batch: str | None
    version: int | None = Field(
        description="the version that no longer contains the records; null of a completed one: the "
        "model has no live version any more"
    )
    attempts: int
    error: str | None
    not_before: datetime | None = Field(
        description="it is not begun before: the policy's undo window, or the pause after a failed "
        "attempt"
    )
    completed_at: datetime | None


class DeletionRequest(BaseModel):
    """A recorded deletion request, without what identified the person."""

    id: str = Field(examples=["dr_01k0c9m2vq8f4t6x3z5b7n1r9d"])
    dataset: str | None = Field(description="null: every dataset that has subject ids")
    kind: Literal["records", "subject", "class"]
    status: RequestStatus
    status_reason: str | None = Field(
        description="why it is in its state; also how many of the record ids name nothing"
    )
    label: int | None
    reason: str | None
    client_reference: str | None
    matched: int = Field(description="records to forget")
    already_forgotten: int = Field(description="records forgotten before")
    not_found: int = Field(description="record ids that name nothing in the dataset")
    complete_match: bool = Field(
        description="false: not everything that was requested was found, so check the ids"
    )
    created_at: datetime
    due_at: datetime = Field(description="the end of its regulation's period, extensions included")
    regulation: Regulation
    extensions: int = Field(description="how often the period was extended")
    extension_reason: str | None
    denial_code: DenialReason | None
    legal_hold: bool = Field(description="nothing of it is destroyed until the hold is released")
    expected_by: datetime = Field(description="an estimate, not a promise")
    completed_at: datetime | None


class InDataset(BaseModel):
    """What a request met in one dataset."""

    dataset: str
    matched: int = Field(description="records to forget")
    already_forgotten: int = Field(description="records forgotten before")


class DeletionRequestDetail(DeletionRequest):
    """A deletion request with what it met in each dataset and its state on each model."""

    datasets: list[InDataset]
    erasures: list[Erasure]
    legal_holds: list[LegalHold]


class Splits(BaseModel):
    """Numbers of records by split."""

    train: int
    validation: int
    audit: int


class OnModel(BaseModel):
    """How many of the records a model's live version holds."""

    model: str
    version: int | None = Field(description="the live version; null: its first training runs")
    trained_on: int = Field(
        description="of the records, how many the live version was trained on and holds"
    )


class PreviewInDataset(InDataset):
    """What a request would meet in one dataset."""

    splits: Splits
    models: list[OnModel]


class Preview(BaseModel):
    """What a request would meet now and in which state it would begin; nothing is recorded."""

    dataset: str | None = Field(description="null: every dataset that has subject ids")
    kind: Literal["records", "subject", "class"]
    status: RequestStatus = Field(
        description="the state in which the request would begin; `awaiting_approval`: it would wait"
    )
    matched: int = Field(description="records to forget")
    already_forgotten: int = Field(description="records forgotten before")
    not_found: int = Field(description="record ids that name nothing in the dataset")
    complete_match: bool = Field(description="false: not everything that was requested was found")
    due_at: datetime = Field(description="the end of its regulation's period")
    expected_by: datetime = Field(description="an estimate, not a promise")
    datasets: list[PreviewInDataset]


class BatchResult(BaseModel):
    """The result of one item of a batch."""

    status: int = Field(description="the HTTP status that it would have had alone", examples=[202])
    request: DeletionRequest | None = None
    problem: Problem | None = None


class BatchResults(BaseModel):
    """The result of every item, in order."""

    items: list[BatchResult]
    accepted: int
    refused: int


class Events(BaseModel):
    """The events of a request so far."""

    items: list[schemas.AuditEvent]
    next_cursor: str | None
    erasures: list[Erasure]
