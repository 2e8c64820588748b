"""Ask for a new anchor, trained on the rows that are still allowed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from service.messages.operation import Operation, Struct
from service.messages.parts import Fraction, Kept, Made, Model, Saved, View


@dataclass(frozen=True, kw_only=True)
class Approximate(Struct):
    """The live approximate version, to compare with the exact one that replaces it.

    ``trained_on`` are the rows that its anchor was imported with; None: the train split.
    """

    digest: str
    number: int
    trained_on: list[int] | None


@dataclass(frozen=True, kw_only=True)
class Request(Struct):
    """Training run ``run``, resumed from the kept state ``resume`` or from the beginning.

    Its state is kept about every ``keep_seconds``; a log of the updates of up to
    ``update_log_bytes`` is stored, 0: none. ``data`` is as of the revision ``data_revision``.
    """

    data: View
    data_revision: int
    model: Model
    run: str
    seed: int
    resume: str | None
    keep_seconds: float
    update_log_bytes: int
    approximate: Approximate | None
    gates: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Epochs(Fraction):
    """Progress of a training after its epoch number ``epoch``, counted from 1."""

    epoch: int
    epochs: int


#: Training loss, validation loss, validation accuracy and learning rate of an epoch; the last is
#: None if the training has none.
Results = tuple[float, float, float, float | None]


@dataclass(frozen=True, kw_only=True)
class Curve(Struct):
    """The results of all epochs so far, and of how many rows they are."""

    training_rows: int
    validation_rows: int
    epochs: list[Results]


@dataclass(frozen=True, kw_only=True)
class Answer(Struct):
    """The checkpoint, the results of all epochs, seconds by step, and what was measured.

    ``comparison`` is that with the approximate version, None if there is none to compare with;
    ``accuracy_drop``: the new version is less accurate than the gates allow.
    """

    checkpoint: Saved
    artifacts: list[Made]
    curve: Curve
    notes: dict[str, Any]
    comparison: dict[str, Any] | None
    accuracy_drop: bool
    timings: dict[str, float]
    verification: dict[str, Any]


Progress = Epochs | Fraction | Curve | Kept
TRAIN: Operation[Request, Answer, Progress] = Operation("train", Request, Answer, Progress)
