"""Ask for a batch to be unlearned with one method: a new checkpoint and its verification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from service.messages.operation import Operation, Struct
from service.messages.parts import Fraction, Kept, Made, Model, Saved, Ticket


@dataclass(frozen=True, kw_only=True)
class Excluded(Struct):
    """The rows of a dataset that were excluded after the revision ``since``, up to ``until``.

    0 is before the first: ``rows`` are then all of them.
    """

    dataset: int
    since: int
    until: int
    rows: list[int]


@dataclass(frozen=True, kw_only=True)
class RecordList(Struct):
    """The rows of a record list; None if they were sent before."""

    list_id: str
    rows: list[int] | None


@dataclass(frozen=True, kw_only=True)
class RowSets(Struct):
    """Facts of a dataset for a compute process, without those that it was sent before.

    ``trained_on`` replaces the train split; None: the split itself.
    """

    excluded: Excluded
    trained_on: RecordList | None


@dataclass(frozen=True, kw_only=True)
class Version(Struct):
    """A checkpoint and the number of its version."""

    digest: str
    number: int


@dataclass(frozen=True, kw_only=True)
class Anchor(Struct):
    """The anchor of the base's chain, and the digests of its internal state.

    ``cache`` of the anchor, ``state`` of the base (the running sums), ``statistics`` of the base
    (the sums from which it was solved), ``log`` of the anchor's training, ``margins`` the targets
    of its training rows, each None if there is none.
    ``earlier`` are the rows forgotten since, [] as soon as one of them is overwritten;
    ``forgot_before``: there were such rows; ``taken_back`` are those whose training steps are no
    longer in the weights.
    """

    digest: str
    cache: str | None
    state: str | None
    statistics: str | None
    log: str | None
    margins: str | None
    earlier: list[int]
    forgot_before: bool
    taken_back: list[int]


@dataclass(frozen=True, kw_only=True)
class Limits(Struct):
    """The policy's drift budget, for methods that limit their own drift."""

    max_forgotten_share: float
    max_class_share: float


@dataclass(frozen=True, kw_only=True)
class Choice(Struct):
    """A method and its options, as it announced them."""

    method: str
    options: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Resumable(Struct):
    """How a training keeps its state, and where it resumes; ``owner`` is the batch's id."""

    owner: str
    keep_seconds: float
    resume: str | None


@dataclass(frozen=True, kw_only=True)
class Request(Struct):
    """Unlearn the rows ``forget``; ``never_seen`` are audit rows of a class that is forgotten.

    ``data_revision`` is the one at which rows are excluded. ``lineage_clean``: the base holds no
    forgotten row except those of this batch. ``earlier_scores`` are the digests of the scores that
    it is pooled with, ``references`` those of the anchor's reference models, ``class_references``
    those trained without whole classes, for a batch that forgets a class. ``training`` is given if
    the method trains and keeps its state.
    """

    store: Ticket
    arrays: list[str]
    row_sets: RowSets
    data_revision: int
    model: Model
    kind: Literal["records", "class"]
    seed: int
    forget: list[int]
    never_seen: list[int]
    base: Version
    anchor: Anchor
    gates: dict[str, Any]
    limits: Limits
    lineage_clean: bool
    earlier_scores: list[str]
    references: list[str]
    class_references: list[str]
    update_log_bytes: int
    choice: Choice
    training: Resumable | None


@dataclass(frozen=True, kw_only=True)
class Answer(Struct):
    """The checkpoint, its internal state, and its verification.

    ``is_anchor``: it was trained anew on the retained rows. ``retrain_because`` are reasons to
    retrain soon although nothing failed. ``timings`` are seconds by step.
    """

    checkpoint: Saved
    artifacts: list[Made]
    is_anchor: bool
    notes: dict[str, Any]
    retrain_because: list[str]
    timings: dict[str, float]
    verification: dict[str, Any]


Progress = Fraction | Kept
UNLEARN: Operation[Request, Answer, Progress] = Operation("unlearn", Request, Answer, Progress)
