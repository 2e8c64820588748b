"""Shapes of runs."""

# Written by `make client` from the OpenAPI document; do not edit.

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import Field

from ..answers import Answer


class EpochView(Answer):
    """The results of an epoch; null where they are withheld."""

    #: counted from 1
    epoch: int
    #: mean of what the recipe minimises (smoothed labels, weighted classes) over the epoch's
    #: updates
    training_loss: float | None
    #: mean loss of the validation rows at its end
    validation_loss: float | None
    validation_accuracy: float | None
    #: of its last update; null: the training has none
    learning_rate: float | None


class RunDetail(Answer):
    """A training run with the results of its epochs so far."""

    id: str
    model: str
    status: str
    reason: str = Field(repr=False)
    seed: int
    #: the dataset's revision when it began; rows forgotten until then are left out
    data_revision: int | None
    #: the revision given for it: rows that the dataset got later are left out, too
    asked_revision: int | None
    #: fraction, and of a training by gradients the last finished epoch and the largest number of
    #: epochs
    progress: Mapping[str, Any]
    attempts: int
    error: str | None
    #: number of the version that it made
    version: int | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    curve: list[EpochView]
    #: why results are null: they would tell of very few rows; null: none is withheld
    withheld: str | None


class RunView(Answer):
    """A training run."""

    id: str
    model: str
    status: str
    reason: str = Field(repr=False)
    seed: int
    #: the dataset's revision when it began; rows forgotten until then are left out
    data_revision: int | None
    #: the revision given for it: rows that the dataset got later are left out, too
    asked_revision: int | None
    #: fraction, and of a training by gradients the last finished epoch and the largest number of
    #: epochs
    progress: Mapping[str, Any]
    attempts: int
    error: str | None
    #: number of the version that it made
    version: int | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
