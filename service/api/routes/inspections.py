"""Inspections over HTTP: what a source would be read as, without ingesting it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field

from service.api import auth, bodies, deps, problems
from service.ledger.database import db
from service.ledger.registry import inspections as ledger

router = bodies.router("/v1/dataset-inspections", tag="datasets")

Reading = Annotated[auth.Principal, auth.require("models:read")]


class ColumnView(BaseModel):
    """A column of the source."""

    name: str
    part: Literal["record_id", "subject_id", "label", "split", "feature", "ignored"]
    stored: str | None = Field(description="type in the store; null: it is not kept")
    recognised: Literal["declared", "by name", "by position", "remaining column"]


class TypedColumnView(ColumnView):
    """A feature of a typed table."""

    type: Literal["number", "whole", "boolean", "category"]
    type_recognised: Literal["declared", "by its values"]
    missing: int = Field(description="values that are missing, among all rows that were read")
    trimmed: int = Field(description="values that had white space around them, which is left out")
    features: int = Field(description="numbers that a network receives of it")
    codes: int | None = Field(
        description="of a category: words that have a feature of their own; `input.options` names "
        "them"
    )
    rare: int | None = Field(
        description="of a category: words that fewer than ten people (or rows) of the training "
        "rows have, which are unknown to a network, as new ones are"
    )


class IdsView(BaseModel):
    """Where the ids come from: if they are generated or absent, no client can name a record."""

    record_id: Literal["source", "generated"] | None
    subject_id: Literal["source", "absent"] | None
    case: Literal["distinct", "ignored"] | None = Field(
        description="what ids that differ by case mean; null: there are none"
    )


class NotesView(BaseModel):
    """What reading changed."""

    model_config = ConfigDict(from_attributes=True)

    format: str | None = None
    splits: Literal["source", "drawn"] | None = None
    layout: Literal["table", "gray", "channels_first", "channels_last"] | None = Field(
        None, description="what the axes of an NPZ array were taken for; null: of other formats"
    )
    record_ids_normalised: int = Field(
        0,
        description="record ids whose white space, dashes, invisible characters or Unicode form "
        "(NFKC) were changed, as they are in requests; letters that only look alike were not",
    )
    subject_ids_normalised: int = Field(0, description="subject ids changed in the same way")
    images_turned: int = Field(0, description="images turned as their EXIF orientation says")
    images_coloured: int = Field(0, description="gray images among colour ones, made colour")
    suppressed: int = Field(0, description="rows left out because they were forgotten before")
    read: int | None = Field(None, description="of an append: rows of the source")
    existing: int = Field(
        0, description="of an append: rows left out because the dataset has their record ids"
    )
    of_forgotten_classes: int = Field(
        0, description="of an append: rows left out because their class was asked to be forgotten"
    )
    unknown: dict[str, int] = Field(
        default_factory=dict,
        description="of an append to a typed table: by column, values whose word has no feature",
    )


class InputView(BaseModel):
    """The kind of input of the rows."""

    name: str = Field(description="image, table or an installed kind: GET /v1/inputs")
    options: dict[str, Any] = Field(
        description="what the source stated about them; of a typed table what was learned from its "
        "training rows: the words that have a feature, and how numbers are centred and scaled"
    )
    parameters: dict[str, int] = Field(
        description="parameters of an architecture that they decide, where it has them"
    )


class ReportView(BaseModel):
    """How a source was read."""

    columns: list[TypedColumnView | ColumnView] = Field(
        description="every column of the source, in its order"
    )
    class_names: list[str] | None = Field(
        description="where the source names its classes, or its labels are words"
    )
    notes: NotesView
    ids: IdsView
    input: InputView | None = Field(description="what the rows are; null: not known yet")
    scale: float | None = Field(
        description="by which models multiply the rows unless their transform says otherwise: "
        "1/255 for images of bytes, 1 for tables; null: they take no transform"
    )


class FoundView(ReportView):
    """What a source would be as a dataset, or would add to one."""

    rows: int
    shape: list[int] = Field(description="of one row")
    dtype: str
    classes: int
    splits: dict[str, int] = Field(description="rows of train, validation and audit")


class InspectionView(BaseModel):
    """A dry run of an ingest or of an append. It is kept for an hour."""

    model_config = ConfigDict(from_attributes=True)

    id: str = Field(examples=["insp_01k0c9v5d6t7m8n9p0q1r2s3t4"])
    status: Literal["waiting", "done", "refused"]
    error: str | None = Field(description="why the source was refused: row, column, reason")
    source: dict[str, Any]
    found: FoundView | None = Field(description="what the dataset would be, once that is known")
    created_at: datetime


def ask(session: deps.Session, source: Mapping[str, Any]) -> InspectionView:
    """Queue an inspection of a source for a worker."""
    asked = ledger.create(session, source=source, now=db.now())
    return InspectionView.model_validate(asked)


@router.get(
    "/{inspection}",
    response_model=InspectionView,
    responses=problems.responses(404),
    summary="Show what a source would be read as",
)
def show(
    inspection: Annotated[str, Path(pattern=r"^insp_[0-9a-z]{26}$")],
    _: Reading,
    session: deps.Reader,
) -> Any:
    """Return the state of an inspection, and its result once a worker has made it."""
    return ledger.get(session, inspection, now=db.now())
