"""The parts of an audit report that the offline check reads, by name and type."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Shape(BaseModel):
    """Base of all parts of a report; further members are allowed."""

    model_config = ConfigDict(strict=True, extra="allow", hide_input_in_errors=True)


class Line(Shape):
    """One audit line."""

    seq: int = Field(ge=1)
    at: str
    actor: str
    action: str
    subject: str
    data: dict[str, Any]
    previous_hash: str
    hash: str


class Head(Shape):
    """The signed head of the chain."""

    type: Literal["chain-head"]
    seq: int
    hash: str
    at: str
    signature: dict[str, Any]


class Chain(Shape):
    """Audit lines and the head over them."""

    lines: list[Line]
    head: Head


class Request(Shape):
    """One deletion request."""

    id: str
    status: str
    matched: int
    records: list[str]


class AskedCounts(Shape):
    """Numbers of what was requested."""

    requests: int
    records: int


class RawRows(Shape):
    """The state of the raw rows."""

    records: int
    overwritten: int


class Asked(Shape):
    """What was requested."""

    requests: list[Request]
    counts: AskedCounts
    raw_rows: RawRows


class Name(Shape):
    """A version by number and digest of its weights."""

    version: int
    digest: str


class Batch(Shape):
    """The batch that made the version."""

    id: str
    status: str
    count: int
    records: list[str]


class Run(Shape):
    """The training that made the version."""

    id: str


class Done(Shape):
    """What was done."""

    origin: str
    guarantee: str
    training_run: Run | None
    published_at: str | None
    retired_at: str | None
    #: Absent in reports from before versions could be withdrawn.
    withdrawn_at: str | None = None
    base: Name | None
    anchor: Name
    digest_before: str | None
    digest_after: str
    batch: Batch | None
    #: What the method noted of its step; of a head also the ``statistics`` of its sums.
    notes: dict[str, Any] = Field(default_factory=dict)


class Gate(Shape):
    """One gate and its outcome."""

    gate: str
    concern: str
    outcome: str
    #: Of reports since gates say what their pass counts for.
    tells: bool | None = None
    counts: str | None = None
    precedence: int | None = None


class Certificate(Shape):
    """What proves that the weights are those of a fit on the retained rows, or how near they are.

    It has the ``residual`` of weights that equal a fit's, or the other three of near ones.
    """

    digest_before: str
    digest_after: str
    rows_before: int
    rows_deleted: int
    rows_added: int
    rows_after: int
    penalty: float
    headroom_bits: int
    features: int | None = None
    grid_bits: int | None = None
    residual: float | None = None
    gradient_norm: float | None = None
    rounding: float | None = None
    distance_bound: float | None = None


class Measured(Shape):
    """The stored verification."""

    verdict: str
    gates: list[Gate] | None = None
    certificate: Certificate | None = None


class Step(Name):
    """One version of the lineage."""

    status: str
    batch: str | None
    forgotten: int


class Left(Shape):
    """Weights, their copies in a model registry, or internal state that contain forgotten rows."""

    kind: str
    #: Its version; the kept state of a training run has none.
    version: int | None = None


class Purge(Shape):
    """The receipt of what was destroyed."""

    subject: str
    receipt: dict[str, Any]


class Report(Shape):
    """The whole report."""

    type: Literal["audit-report"]
    format: Literal[1]
    at: str
    model: str
    version: int
    status: str
    production: bool
    asked: Asked
    done: Done
    measured: Measured | None
    lineage: list[Step]
    carries_forgotten: list[str]
    remaining: list[Left]
    purges: list[Purge]
    does_not_prove: list[str]
    chain: Chain
    signature: dict[str, Any]


class OwnLine(Shape):
    """An audit line about the request of a receipt: its place and hash, without its data."""

    seq: int = Field(ge=1)
    at: str
    action: str
    hash: str = Field(pattern=r"^[0-9a-f]{64}$")


class OwnChain(Shape):
    """The lines about one request, and the head over them."""

    lines: list[OwnLine]
    head: Head


class AskedFor(Shape):
    """What the request of a receipt asks for."""

    id: str
    kind: str


class OnModel(Shape):
    """One model's part in the request."""

    model: str
    state: str
    completed_at: str | None
    result: str | None


class OwnRows(Shape):
    """The stored rows of the request."""

    rows: int | None
    overwritten: int | None
    all_overwritten: bool


class Receipt(Shape):
    """The whole receipt of a deletion request."""

    type: Literal["deletion-receipt"]
    format: Literal[1]
    at: str
    request: AskedFor
    state: str
    ended_at: str | None
    models: list[OnModel]
    raw_rows: OwnRows | None
    does_not_prove: list[str]
    chain: OwnChain
    signature: dict[str, Any]
