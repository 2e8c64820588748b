"""Shapes of datasets."""

# Written by `make client` from the OpenAPI document; do not edit.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from ..answers import Answer, Given, Word


class AppendStatus(StrEnum):
    """Rows that are added to a dataset that is ready."""

    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class NotesView(Answer):
    """What reading changed."""

    format: str | None = None
    splits: str | None = None
    #: what the axes of an NPZ array were taken for; null: of other formats
    layout: str | None = None
    #: record ids whose white space, dashes, invisible characters or Unicode form (NFKC) were
    #: changed, as they are in requests; letters that only look alike were not
    record_ids_normalised: int | None = None
    #: subject ids changed in the same way
    subject_ids_normalised: int | None = None
    #: images turned as their EXIF orientation says
    images_turned: int | None = None
    #: gray images among colour ones, made colour
    images_coloured: int | None = None
    #: texts with more tokens than a row has; the rest of them was left out
    texts_truncated: int | None = None
    #: tokens of all texts, without those of the tokenizer itself
    tokens: int | None = None
    #: of these, those that the vocabulary does not have
    tokens_unknown: int | None = None
    #: rows left out because they were forgotten before
    suppressed: int | None = None
    #: of an append: rows of the source
    read: int | None = None
    #: of an append: rows left out because the dataset has their record ids
    existing: int | None = None
    #: of an append: rows left out because their class was asked to be forgotten
    of_forgotten_classes: int | None = None
    #: of an append to a typed table: by column, values whose word has no feature
    unknown: Mapping[str, int] | None = None


class AppendView(Answer):
    """Rows that are added to a dataset."""

    id: str
    dataset: str
    status: Word[AppendStatus]
    #: 0 to 1
    progress: float
    #: why the source was refused: row, column, reason
    error: str | None
    source: Mapping[str, Any]
    existing: str
    #: rows that joined the dataset; null: not known yet
    rows: int | None
    #: of these, by split
    splits: Mapping[str, int] | None
    #: how the source was read, and how many rows were left out
    notes: NotesView | None
    #: the dataset's revision from which on it has the rows: trainings that begin at it or later
    #: read them; null: not completed, or no row joined
    revision: int | None
    created_at: datetime
    finished_at: datetime | None


class ColumnView(Answer):
    """A column of the source."""

    name: str
    part: str
    #: type in the store; null: it is not kept
    stored: str | None
    recognised: str


class ColumnsGiven(Given):
    """Which column plays which part; parts left out are found by the usual names."""

    record_id: str | None = Field(None, repr=False)
    subject_id: str | None = Field(None, repr=False)
    label: str | None = None
    split: str | None = None
    features: Sequence[str] | None = None
    image: str | None = None
    #: column of texts, if the kind of input is made of them
    text: str | None = None
    #: columns to leave out
    ignored: Sequence[str] | None = None


class DatasetStatus(StrEnum):
    """A dataset, from accepted to destroyed."""

    INGESTING = "ingesting"
    READY = "ready"
    FAILED = "failed"
    WITHDRAWN = "withdrawn"
    PURGED = "purged"


class IdsView(Answer):
    """Where the ids come from: if they are generated or absent, no client can name a record."""

    record_id: str | None = Field(repr=False)
    subject_id: str | None = Field(repr=False)
    #: what ids that differ by case mean; null: there are none
    case: str | None


class InputView(Answer):
    """The kind of input of the rows."""

    #: image, table or an installed kind: GET /v1/inputs
    name: str
    #: what the source stated about them; of a typed table what was learned from its training rows:
    #: the words that have a feature, and how numbers are centred and scaled
    options: Mapping[str, Any]
    #: parameters of an architecture that they decide, where it has them
    parameters: Mapping[str, int]


class TypedColumnView(Answer):
    """A feature of a typed table."""

    name: str
    part: str
    #: type in the store; null: it is not kept
    stored: str | None
    recognised: str
    type: str
    type_recognised: str
    #: values that are missing, among all rows that were read
    missing: int
    #: values that had white space around them, which is left out
    trimmed: int
    #: numbers that a network receives of it
    features: int
    #: of a category: words that have a feature of their own; `input.options` names them
    codes: int | None
    #: of a category: words that fewer than ten people (or rows) of the training rows have, which
    #: are unknown to a network, as new ones are
    rare: int | None


class DatasetDetail(Answer):
    """A dataset with its counts and how its source was read."""

    #: every column of the source, in its order
    columns: list[TypedColumnView | ColumnView]
    #: where the source names its classes, or its labels are words
    class_names: list[str] | None
    notes: NotesView
    ids: IdsView
    #: what the rows are; null: not known yet
    input: InputView | None
    #: by which models multiply the rows unless their transform says otherwise: 1/255 for images of
    #: bytes, 1 for tables; null: they take no transform
    scale: float | None
    name: str
    status: Word[DatasetStatus]
    #: of the ingest, 0 to 1
    progress: float
    #: why the source was refused: row, column, reason
    error: str | None
    source: Mapping[str, Any]
    rows: int | None
    #: of one row
    shape: list[int] | None
    dtype: str | None
    classes: int | None
    #: grows by one each time records are taken out of training, or added
    revision: int
    created_at: datetime
    ready_at: datetime | None
    withdrawn_at: datetime | None
    #: when every row of it was overwritten
    purged_at: datetime | None
    #: whether the texts of its rows are stored as well
    keeps_text: bool
    #: rows of train, validation and audit
    splits: Mapping[str, int]
    #: records taken out of training for good
    forgotten: int
    #: of these, raw rows overwritten in the store
    erased: int


class DatasetView(Answer):
    """A dataset."""

    name: str
    status: Word[DatasetStatus]
    #: of the ingest, 0 to 1
    progress: float
    #: why the source was refused: row, column, reason
    error: str | None
    source: Mapping[str, Any]
    rows: int | None
    #: of one row
    shape: list[int] | None
    dtype: str | None
    classes: int | None
    #: grows by one each time records are taken out of training, or added
    revision: int
    created_at: datetime
    ready_at: datetime | None
    withdrawn_at: datetime | None
    #: when every row of it was overwritten
    purged_at: datetime | None


class FoundView(Answer):
    """What a source would be as a dataset, or would add to one."""

    #: every column of the source, in its order
    columns: list[TypedColumnView | ColumnView]
    #: where the source names its classes, or its labels are words
    class_names: list[str] | None
    notes: NotesView
    ids: IdsView
    #: what the rows are; null: not known yet
    input: InputView | None
    #: by which models multiply the rows unless their transform says otherwise: 1/255 for images of
    #: bytes, 1 for tables; null: they take no transform
    scale: float | None
    rows: int
    #: of one row
    shape: list[int]
    dtype: str
    classes: int
    #: rows of train, validation and audit
    splits: Mapping[str, int]


class FractionsGiven(Given):
    """Shares of the splits that are drawn when no column says them."""

    train: float | None = None
    validation: float | None = None
    audit: float | None = None


class InputGiven(Given):
    """The kind of input of the rows, if they are neither images nor a table."""

    name: str
    #: what the kind asks about its rows: GET /v1/inputs
    options: Mapping[str, Any] | None = None


class InspectionView(Answer):
    """A dry run of an ingest or of an append. It is kept for an hour."""

    id: str
    status: str
    #: why the source was refused: row, column, reason
    error: str | None
    source: Mapping[str, Any]
    #: what the dataset would be, once that is known
    found: FoundView | None
    created_at: datetime


class RecordListView(Answer):
    """Records of a dataset that a training elsewhere used."""

    #: give it as `trained_on` when importing a version
    id: str
    dataset: str
    records: int
    #: sha256 of its rows
    digest: str
    #: its records in train, validation and audit
    splits: Mapping[str, int]
    created_at: datetime


class SourceGiven(Given):
    """A file or directory under the server's data root, or in a bucket."""

    #: relative to the configured data root, or s3://bucket/… where the settings allow it
    path: str
    #: csv, parquet, json_lines, npz, image_folder, …; left out: recognised by name and content
    format: str | None = None


class TableGiven(Given):
    """A typed table: columns of numbers, whole numbers, booleans and categories.

    The values of a category are words; those that at least ten people (or rows) of the training
    rows have become a feature each.
    """

    #: of columns, by name; those of the others are recognised by all their values
    types: Mapping[str, Literal["number", "whole", "boolean", "category"]] | None = None
    #: texts that mean a missing value, which is imputed; an empty text is an empty field or null.
    #: An empty field that is not listed is refused
    missing: Sequence[str] | None = None
    #: centre and scale numbers by the training rows; false: as they are
    standardised: bool | None = None


class TextsView(Answer):
    """Texts in the order of the record ids."""

    #: null: there is no such record, or it is taken out of training
    texts: list[str | None]
