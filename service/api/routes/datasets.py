"""Datasets over HTTP: created here, ingested by a worker."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from service import sources
from service.api import auth, bodies, deps, pagination, problems, schemas
from service.api.routes import inspections
from service.ledger.database import db
from service.ledger.database.states import DatasetStatus
from service.ledger.registry import datasets

router = bodies.router("/v1/datasets", tag="datasets")

Reading = Annotated[auth.Principal, auth.require("models:read")]
Writing = Annotated[auth.Principal, auth.require("models:write")]

RETRY_AFTER_SECONDS = 2

#: May be empty: pandas writes an unnamed index so.
ColumnName = Annotated[str, Field(max_length=255)]
FeatureName = Annotated[str, Field(min_length=1, max_length=255)]
Share = Annotated[float, Field(ge=0, le=1)]
Word = Annotated[str, Field(max_length=255)]
ColumnType = Literal["number", "whole", "boolean", "category"]
Side = Annotated[int, Field(ge=1, le=4096)]


class SourceGiven(schemas.Body):
    """A file or directory under the server's data root, or in a bucket."""

    path: str = Field(
        min_length=1,
        max_length=1024,
        description="relative to the configured data root, or s3://bucket/… where the settings "
        "allow it",
        examples=["faces/train.parquet"],
    )
    format: str | None = Field(
        None,
        max_length=32,
        pattern=r"^[a-z0-9_]+$",
        description="csv, parquet, json_lines, npz, image_folder, …; left out: recognised by name "
        "and content",
    )


class ColumnsGiven(schemas.Body):
    """Which column plays which part; parts left out are found by the usual names."""

    record_id: ColumnName | None = None
    subject_id: ColumnName | None = None
    label: ColumnName | None = None
    split: ColumnName | None = None
    features: list[FeatureName] | None = Field(None, min_length=1, max_length=10_000)
    image: ColumnName | None = None
    text: ColumnName | None = Field(
        None, description="column of texts, if the kind of input is made of them"
    )
    ignored: list[ColumnName] | None = Field(
        None, min_length=1, max_length=1_000, description="columns to leave out"
    )


class InputGiven(schemas.Body):
    """The kind of input of the rows, if they are neither images nor a table."""

    name: str = Field(max_length=64, pattern=r"^[a-z][a-z0-9_]*$", examples=["table"])
    options: dict[str, Any] = Field(
        default_factory=dict, description="what the kind asks about its rows: GET /v1/inputs"
    )


class TableGiven(schemas.Body):
    """A typed table: columns of numbers, whole numbers, booleans and categories.

    The values of a category are words; those that at least ten people (or rows) of the training
    rows have become a feature each.
    """

    types: dict[ColumnName, ColumnType] = Field(
        default_factory=dict,
        max_length=10_000,
        description="of columns, by name; those of the others are recognised by all their values",
    )
    missing: list[Word] = Field(
        default_factory=list,
        max_length=100,
        description="texts that mean a missing value, which is imputed; an empty text is an empty "
        "field or null. An empty field that is not listed is refused",
        examples=[["", "?"]],
    )
    standardised: bool = Field(
        True, description="centre and scale numbers by the training rows; false: as they are"
    )


class FractionsGiven(schemas.Body):
    """Shares of the splits that are drawn when no column says them."""

    train: Share = 0.8
    validation: Share = 0.1
    audit: Share = 0.1

    @model_validator(mode="after")
    def _sum_to_one(self) -> FractionsGiven:
        if abs(self.train + self.validation + self.audit - 1) > 1e-6:
            raise ValueError("train, validation and audit must sum to 1")
        if self.train == 0:
            raise ValueError("train must be above 0")
        return self


class DatasetGiven(schemas.Body):
    """A dataset to ingest."""

    name: schemas.DatasetName = Field(examples=["faces"])
    source: SourceGiven
    columns: ColumnsGiven = Field(default_factory=ColumnsGiven)
    classes: int | None = Field(
        None, ge=2, le=100_000, description="number of classes; left out: from the labels"
    )
    input: InputGiven | None = Field(
        None, description="left out: images, where rows have three axes, or a table"
    )
    table: TableGiven | None = Field(
        None,
        description="the source is a table whose columns have types, such as words and missing "
        "values; left out: every feature is a number",
    )
    resize: tuple[Side, Side] | None = Field(
        None, description="height and width to which images of different sizes are brought"
    )
    id_case: Literal["distinct", "ignored"] | None = Field(
        None,
        description="what ids that differ by case mean: different ids, or one; left out: a source "
        "that has such ids is refused",
    )
    keep_text: bool = Field(
        False,
        description="also keep the texts of which rows are made, for keys with texts:read; they "
        "are erased with their rows",
    )
    text_bytes: int = Field(
        4096,
        ge=16,
        le=65_536,
        description="with keep_text: bytes of the longest text (UTF-8); each takes as many in the "
        "store",
    )
    seed: int = Field(0, ge=0, le=2**63 - 1, description="seed of the drawn splits")
    fractions: FractionsGiven = Field(default_factory=FractionsGiven)
    dry_run: bool = Field(
        False,
        description="only read and check the source: the answer is an inspection that shows what "
        "the dataset would be, and nothing else is kept",
    )

    @model_validator(mode="after")
    def _one_kind(self) -> DatasetGiven:
        if self.table is not None and self.input is not None:
            raise ValueError("a typed table has its own kind of input: give table or input")
        return self


class DatasetView(BaseModel):
    """A dataset."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    status: DatasetStatus
    progress: float = Field(description="of the ingest, 0 to 1")
    error: str | None = Field(description="why the source was refused: row, column, reason")
    source: dict[str, Any]
    rows: int | None
    shape: list[int] | None = Field(description="of one row")
    dtype: str | None
    classes: int | None
    revision: int = Field(
        description="grows by one each time records are taken out of training, or added"
    )
    created_at: datetime
    ready_at: datetime | None
    withdrawn_at: datetime | None
    purged_at: datetime | None = Field(description="when every row of it was overwritten")


class DatasetDetail(DatasetView, inspections.ReportView):
    """A dataset with its counts and how its source was read."""

    keeps_text: bool = Field(description="whether the texts of its rows are stored as well")
    splits: dict[str, int] = Field(description="rows of train, validation and audit")
    forgotten: int = Field(description="records taken out of training for good")
    erased: int = Field(description="of these, raw rows overwritten in the store")


@router.post(
    "",
    status_code=202,
    response_model=DatasetDetail | inspections.InspectionView,
    responses=problems.responses(409, 413, 415),
    summary="Ingest a dataset, or inspect its source (dry_run); a worker reads it",
)
def create(
    given: DatasetGiven,
    caller: Writing,
    session: deps.Session,
    settings: deps.Settings,
    wake: deps.Wake,
    response: Response,
) -> Any:
    """Queue the source for ingest, or for an inspection with `dry_run`."""
    sources.check(settings.sources, settings.allowed_buckets, given.source.path)
    response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    if given.dry_run:
        asked = inspections.ask(session, _source(given))
        session.commit()
        wake.background()
        response.headers["Location"] = f"/v1/dataset-inspections/{asked.id}"
        return asked
    dataset = datasets.create(
        session, given.name, source=_source(given), actor=caller.actor, now=db.now()
    )
    shown = datasets.describe(session, dataset)
    session.commit()
    wake.background()
    response.headers["Location"] = f"/v1/datasets/{dataset.name}"
    return shown


@router.get(
    "",
    response_model=pagination.Page[DatasetView],
    summary="List the datasets",
)
def listing(_: Reading, session: deps.Reader, paging: pagination.Asked) -> Any:
    """Return a page of the datasets."""
    rows = datasets.page(session, after=paging.after(str), limit=paging.fetch)
    return paging.page(rows, key=lambda row: row.name)


@router.get(
    "/{dataset}",
    response_model=DatasetDetail,
    responses=problems.responses(404),
    summary="Show a dataset, how far its ingest is, and its counts",
)
def show(dataset: deps.Name, _: Reading, session: deps.Reader) -> Any:
    """Return a dataset, the progress of its ingest, and its counts."""
    return datasets.describe(session, datasets.get(session, dataset))


def _source(given: DatasetGiven) -> dict[str, Any]:
    rest = given.model_dump(mode="json", exclude={"name", "source", "dry_run"})
    return {**given.source.model_dump(mode="json"), **rest}
