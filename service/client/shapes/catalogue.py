"""Shapes of catalogue."""

# Written by `make client` from the OpenAPI document; do not edit.

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ..answers import Answer


class ArchitectureView(Answer):
    """An architecture."""

    name: str
    summary: str
    #: JSON schema (2020-12) of the options
    options_schema: Mapping[str, Any]
    code_version: str
    announced_at: datetime
    #: method of models whose policy names none; null: the policy's default
    default_method: str | None
    #: options that a recipe has unless it names an optimiser, in place of the defaults that GET
    #: /v1/recipes shows
    recipe: Mapping[str, Any]


class CapabilityView(Answer):
    """One capability of a worker, with the JSON schema of its options."""

    name: str
    summary: str
    #: JSON schema (2020-12) of the options
    options_schema: Mapping[str, Any]
    code_version: str
    announced_at: datetime


class GateView(Answer):
    """A gate of the verification; its summary is the question that it answers."""

    name: str
    summary: str
    #: JSON schema (2020-12) of its limits, which a policy sets under `gates`
    options_schema: Mapping[str, Any]
    code_version: str
    announced_at: datetime
    concern: str
    #: the metric that it judges; null: it judges a fact
    metric: str | None
    #: what there must be for it to be asked: records or class (what is forgotten),
    #: never_seen_rows, references, retained_rows, anchor
    needs: list[str]
    #: at_most: a metric above the limit fails; within: one farther from its target on either side;
    #: holds: there is no metric
    direction: str
    #: who may read its figures and reason: public: all keys; few_rows: all keys, unless they are
    #: of few rows; scores: keys with audit:read
    disclosure: str


class InputKindView(Answer):
    """A kind of input: what the rows of a dataset are."""

    name: str
    summary: str
    #: JSON schema (2020-12) of what a source states about its rows
    options_schema: Mapping[str, Any]
    code_version: str
    announced_at: datetime
    #: axes of one row
    axes: list[str]
    #: type in the store; of uint8 and float32 the smallest
    dtypes: list[str]
    #: by dtype, what models multiply rows by unless their transform says otherwise; empty: they
    #: take no transform
    scales: Mapping[str, float]
    #: parameters of an architecture that datasets decide
    decides: list[str]
    #: options that name a stored file by its sha256, and its kind: GET /v1/tokenizers
    files: Mapping[str, str] | None = None
    #: the options are learned from the training rows at ingest; no source states them
    learned: bool | None = None


class MethodView(Answer):
    """An unlearning method."""

    name: str
    summary: str
    #: JSON schema (2020-12) of the options
    options_schema: Mapping[str, Any]
    code_version: str
    announced_at: datetime
    #: kinds of forgetting: records, class
    forgets: list[str]
    #: exact: the weights are those of a training without the records; certified: they are within a
    #: bound of those, which a certificate proves; empirical: measured, not proven
    guarantee: str
    #: training: makes epochs over retained rows; runs in the lane for trainings
    cost: str
    #: what it cannot do without, and for which kinds of forgetting: anchor (its prepared cache),
    #: update_log (kept while the anchor was trained, see keep_update_log), statistics (kept by
    #: heads that are fitted to their minimum)
    needs: Mapping[str, list[str]]
