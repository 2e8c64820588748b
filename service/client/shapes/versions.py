"""Shapes of versions."""

# Written by `make client` from the OpenAPI document; do not edit.

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import Field

from ..answers import Answer, Word


class Bundle(Answer):
    """A Sigstore bundle (v0.3) whose envelope signs an in-toto statement."""

    mediaType: str
    verificationMaterial: Mapping[str, Any]
    dsseEnvelope: Mapping[str, Any]


class VersionStatus(StrEnum):
    """One immutable set of weights."""

    CANDIDATE = "candidate"
    PUBLISHED = "published"
    REJECTED = "rejected"
    RETIRED = "retired"
    WITHDRAWN = "withdrawn"
    PURGED = "purged"


class LinkView(Answer):
    """One step of a lineage."""

    number: int
    status: Word[VersionStatus]
    origin: str
    parent: int | None
    #: the batch that made it
    batch: str | None
    method: str | None
    #: records that the batch forgot
    records: int
    verdict: str | None
    mark: str | None
    digest: str
    created_at: datetime


class RecordScores(Answer):
    """What attacks say of one forgotten record."""

    record_id: str = Field(repr=False)
    #: by metric. Of `calibrated_excess_auc`: `excess`, how far the record's margin lies above that
    #: of models that never saw it, `score`, the rank of its score among never-seen records alike,
    #: and both of the base version (`control_excess`, `control`)
    scores: Mapping[str, Mapping[str, float | int | None]]


class VerificationView(Answer):
    """The measurements of a version."""

    model: str
    version: int
    #: passed, failed or no_power of a version that forgot records; exact of one that was trained:
    #: it forgot nothing, so its figures are shown and not judged; imported or failed of one that
    #: was imported, by the rules shown with its figures
    verdict: str
    #: metrics, controls, gates; what is about single records, or about fewer than 10 rows, needs
    #: audit:read
    measured: Mapping[str, Any]
    created_at: datetime


class VersionView(Answer):
    """One immutable set of weights."""

    number: int
    model: str
    status: Word[VersionStatus]
    #: why it is in its state, where the state does not say: how far the measurement of an import
    #: is, why it was refused; why and until when a held one waits for approval
    status_reason: str | None
    is_production: bool
    #: trained, imported, unlearned or retrained
    origin: str
    #: number of the version that it was made from
    parent: int | None
    #: number of the exact version that its chain starts from
    anchor: int | None
    #: revision of the dataset that the anchor was trained on
    data_revision: int
    #: rows that the dataset had then, of every split; later ones were appended
    data_rows: int
    #: the records that the anchor was trained on, less those excluded at `data_revision`: `split`,
    #: the dataset's train split, or the id of a record list
    trained_on: str
    #: sha256 of the safetensors file
    digest: str
    size_bytes: int
    training_run: str | None
    batch: str | None
    method: str | None
    options: Mapping[str, Any]
    seed: int
    code_version: str
    notes: Mapping[str, Any]
    #: seconds per step
    timings: Mapping[str, Any]
    #: a warning recorded with it, such as no_power
    mark: str | None
    #: of its verification: passed, failed or no_power of a version that forgot records; exact of
    #: one that was trained: it forgot nothing, so its figures are shown and not judged; imported
    #: or failed of one that was imported, by the rules shown with its figures; null when it has
    #: none
    verdict: str | None
    created_at: datetime
    published_at: datetime | None
    retired_at: datetime | None
    withdrawn_at: datetime | None
    #: when it is destroyed, if it was withdrawn
    purge_at: datetime | None
    purged_at: datetime | None
