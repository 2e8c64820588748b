"""Check that the parts of an audit report do not contradict each other.

Every problem is one sentence for the reader of the report.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from service.audit_shape import Certificate, Gate, Line, Report

#: Largest residual of weights that count as solved, and largest distance from a minimum of those
#: that count as its own; both of ``unlearning.heads.certificate``.
_MOST_RESIDUAL, _MOST_DISTANCE = 1e-10, 1e-4
#: What a certificate and the version's notes say of its sums besides their digest.
_SIZES = ("features", "grid_bits")
_SHA256 = re.compile(r"[0-9a-f]{64}")
#: Kinds of files whose early receipts did not state that the version's weights stay.
_BESIDE_THE_WEIGHTS = frozenset({"states", "scores"})


def problems(report: Report) -> Iterator[str]:
    """Yield every contradiction between parts of the report."""
    yield from _counts(report)
    yield from _digests(report)
    yield from _verdict(report)
    yield from _certificate(report)
    yield from _destroyed(report)
    yield from _copied(report)
    yield from _told_by_the_lines(report)
    yield from _lines_left_out(report)


def _counts(report: Report) -> Iterator[str]:
    asked, batch = report.asked, report.done.batch
    named = {record for request in asked.requests for record in request.records}
    if asked.counts.requests != len(asked.requests):
        yield "the count of requests is not that of the requests listed"
    if asked.counts.records != len(named) or asked.raw_rows.records != len(named):
        yield "the count of records is not that of the records listed"
    if not 0 <= asked.raw_rows.overwritten <= asked.raw_rows.records:
        yield "more raw rows were overwritten than there are"
    if len({request.id for request in asked.requests}) != len(asked.requests):
        yield "a request is listed twice"
    for request in asked.requests:
        if request.matched != len(request.records):
            yield f"{request.id} matched another number of records than it lists"
    if batch is not None:
        if batch.count != len(batch.records) or len(set(batch.records)) != batch.count:
            yield "the batch counts other records than it lists"
        if not set(batch.records) <= named:
            yield "the batch forgot records that no request names"


def _digests(report: Report) -> Iterator[str]:
    done, steps = report.done, report.lineage
    if (done.digest_before is None) != (done.base is None) or (
        done.base is not None and done.base.digest != done.digest_before
    ):
        yield "the digest before is not that of the base version"
    if not steps:
        yield "the lineage is empty"
        return
    first, last = steps[0], steps[-1]
    if (first.version, first.digest) != (report.version, done.digest_after):
        yield "the lineage does not begin with this version"
    if (last.version, last.digest) != (done.anchor.version, done.anchor.digest):
        yield "the lineage does not end with the anchor"
    if len(steps) > 1 and (done.base is None or steps[1].version != done.base.version):
        yield "the lineage does not go on with the base version"
    if any(after.version >= before.version for before, after in pairwise(steps)):
        yield "the lineage is not in order"
    batch = done.batch
    if batch is not None and (first.batch, first.forgotten) != (batch.id, batch.count):
        yield "the lineage counts other records than the batch"


def _verdict(report: Report) -> Iterator[str]:
    if not report.does_not_prove:
        yield "the report does not say what it does not prove"
    if report.production and report.carries_forgotten:
        yield "the version is live although it still carries forgotten records"
    measured = report.measured
    if measured is None:
        return
    # A version that was trained has nothing to judge, so no gate judged it.
    judged = measured.gates is not None and (measured.verdict != "exact" or measured.gates)
    if judged and measured.verdict != _overall(measured.gates or []):
        yield f"the verdict {measured.verdict} is not what the outcomes of the gates come to"
    live = report.production or report.status == "published"
    if measured.verdict == "failed" and live and not _only_accuracy(report):
        yield "the version is live although its verification failed"


def _certificate(report: Report) -> Iterator[str]:
    """Yield what does not add up in a certificate; the rows themselves are not needed."""
    measured = report.measured
    said = None if measured is None else measured.certificate
    if said is None:
        if any(gate.gate == "certificate" for gate in (measured and measured.gates) or []):
            yield "a certificate decided the verdict and is missing"
        elif report.done.guarantee == "certified":
            yield "the version is called certified and has no certificate"
        return
    counts = (said.rows_before, said.rows_deleted, said.rows_added, said.rows_after)
    if min(counts) < 0 or counts[0] - counts[1] + counts[2] != counts[3]:
        yield "the certificate's rows did not fall by those deleted"
    if report.done.batch is not None and said.rows_deleted < report.done.batch.count:
        yield "the certificate deleted fewer rows than the batch forgot"
    if said.digest_before == said.digest_after:
        yield "the certificate's sums did not change"
    if said.headroom_bits < 0:
        yield "the certificate's sums are not exact"
    if not said.penalty > 0:
        yield "the certificate's penalty is not above 0"
        return
    yield from _sums(said, report.done.notes)
    if said.distance_bound is None:
        if not _solves(said):
            yield "the certificate's weights do not solve its sums"
        if report.done.guarantee != "exact":
            yield "the version has a certificate of equal weights and is not called exact"
        return
    if not _bounds(said):
        yield "the certificate's distance is not that of its gradient and penalty"
    if said.distance_bound > _MOST_DISTANCE:
        yield "the certificate's weights are too far from those of a fit"
    if report.done.guarantee != "certified":
        yield "the version has a certificate of near weights and is not called certified"


def _sums(said: Certificate, notes: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the certificate says of its sums and the version's notes say otherwise."""
    if not all(_SHA256.fullmatch(one) for one in (said.digest_before, said.digest_after)):
        yield "the certificate's digests of its sums are not SHA-256"
    if notes.get("penalty", said.penalty) != said.penalty:
        yield "the certificate has another penalty than the version"
    sums = notes.get("statistics")
    if not isinstance(sums, Mapping):
        return
    if sums.get("digest", said.digest_after) != said.digest_after:
        yield "the certificate is about other sums than the version has"
    if any(getattr(said, name) not in (None, sums.get(name)) for name in _SIZES):
        yield "the certificate's sums have another size than those of the version"


def _solves(said: Certificate) -> bool:
    """Return whether the residual is small, and the certificate states that alone."""
    small = said.residual is not None and 0 <= said.residual <= _MOST_RESIDUAL
    return small and said.gradient_norm is None and said.rounding is None


def _bounds(said: Certificate) -> bool:
    """Return whether the distance is at least (‖∇F‖ + its rounding) / λ, and no residual stated."""
    norm, rounding, penalty = said.gradient_norm, said.rounding, said.penalty
    if norm is None or rounding is None or not (norm >= 0 and rounding > 0):
        return False
    if said.residual is not None:
        return False
    return said.distance_bound is not None and said.distance_bound >= (norm + rounding) / penalty


def _only_accuracy(report: Report) -> bool:
    """Return whether accuracy alone failed, on a version trained without the records."""
    gates = (report.measured and report.measured.gates) or []
    failed = {gate.concern for gate in gates if gate.outcome == "failed"}
    return report.done.origin == "retrained" and failed == {"utility"}


def _overall(gates: Sequence[Gate]) -> str:
    if any(gate.outcome == "failed" for gate in gates):
        return "failed"
    removal = [gate for gate in gates if gate.concern == "removal"]
    if any(gate.counts is None for gate in removal):
        # A report of before gates said what their pass counts for.
        return "passed" if any(gate.outcome == "passed" for gate in removal) else "no_power"
    tell = [gate for gate in removal if gate.tells]
    decide = [gate for gate in tell if gate.counts == "membership"]
    if decide:
        first = max(gate.precedence or 0 for gate in decide)
        decide = [gate for gate in decide if (gate.precedence or 0) == first]
    else:
        decide = [gate for gate in tell if gate.counts == "support"]
    passed = bool(decide) and all(gate.outcome == "passed" for gate in decide)
    return "passed" if passed else "no_power"


def _destroyed(report: Report) -> Iterator[str]:
    """Yield what is called destroyed without a receipt, or remains although it has one."""
    received = {one.subject for one in report.purges if not _of_state_alone(one.receipt)}
    for step in report.lineage:
        if step.status == "purged" and _version(report, step.version) not in received:
            yield f"version {step.version} is said to be destroyed and has no receipt"
    for left in report.remaining:
        if left.kind != "weights" or left.version is None:
            continue
        if _version(report, left.version) in received:
            yield f"version {left.version} has a receipt of its destruction and remains"


#: What the audit lines say of a version's copy in a model registry: whether it is there.
_COPY_LINES: Mapping[str, bool] = {
    "version:copied": True,
    "version:copy_found": True,
    "version:copy_removed": False,
}


def _copied(report: Report) -> Iterator[str]:
    """Yield that a copy of this version remains although its last audit line removes it."""
    own = _version(report, report.version)
    told = [
        _COPY_LINES[line.action]
        for line in report.chain.lines
        if line.subject == own and line.action in _COPY_LINES
    ]
    listed = any(
        left.kind == "copies" and left.version == report.version for left in report.remaining
    )
    if listed and told and not told[-1]:
        yield "a copy of this version is said to remain, and an audit line removed it"


def _of_state_alone(receipt: Mapping[str, Any]) -> bool:
    """Return whether the weights were kept, and only other internal state was destroyed."""
    if receipt.get("weights_kept") is True:
        return True
    destroyed = receipt.get("destroyed")
    if not isinstance(destroyed, list):
        return False
    kinds = {str(one.get("kind")) for one in destroyed if isinstance(one, Mapping)}
    return bool(kinds) and kinds <= _BESIDE_THE_WEIGHTS


def _told_by_the_lines(report: Report) -> Iterator[str]:
    """Yield audit lines, whose hashes are valid, that contradict the report."""
    own = _version(report, report.version)
    subjects = {own, *(f"deletion_request:{request.id}" for request in report.asked.requests)}
    if report.done.batch is not None:
        subjects.add(f"batch:{report.done.batch.id}")
    for line in report.chain.lines:
        if line.subject not in subjects and not _of_the_training(report, line):
            yield f"audit line {line.seq} is about something else"
        if line.subject != own:
            continue
        if line.data.get("digest", report.done.digest_after) != report.done.digest_after:
            yield f"audit line {line.seq} names other weights"
        verdict = None if report.measured is None else report.measured.verdict
        if line.action == "version:verified" and line.data.get("verdict") != verdict:
            yield f"audit line {line.seq} names another verdict"


def _of_the_training(report: Report, line: Line) -> bool:
    run = report.done.training_run
    return (
        run is not None
        and line.subject == f"model:{report.model}"
        and line.data.get("training_run") == run.id
    )


#: Lines with which a request begins.
_RECORDED = frozenset(
    f"deletion_request:{state}" for state in ("accepted", "awaiting_approval", "no_match")
)
_COMPLETED = "deletion_request:completed"
#: Lines of which at least one must exist for a request in this state.
_REQUEST_LINES: Mapping[str, tuple[str, ...]] = {
    "completed": (_COMPLETED,),
    "cancelled": ("deletion_request:cancelled",),
    "denied": ("deletion_request:denied",),
    "no_match": ("deletion_request:no_match",),
    "needs_review": ("deletion_request:needs_review",),
}
_BATCH_LINES: Mapping[str, tuple[str, ...]] = {
    "completed": ("batch:completed",),
    # A batch that was handed back counts as failed, and its line says that no attempt failed.
    "failed": ("batch:failed", "batch:handed_back"),
}
_VERSION_LINES: Mapping[str, tuple[str, ...]] = {
    "rejected": ("version:rejected",),
    "retired": ("version:retired",),
    "withdrawn": ("version:withdrawn",),
    "purged": ("version:purged",),
}


def _lines_left_out(report: Report) -> Iterator[str]:
    """Yield lines that are missing although the report says that the event happened."""
    actions_of: dict[str, set[str]] = {}
    for line in report.chain.lines:
        actions_of.setdefault(line.subject, set()).add(line.action)
    yield from _version_lines_left_out(
        report, actions_of.get(_version(report, report.version), set())
    )
    batch = report.done.batch
    if batch is not None:
        actions = actions_of.get(f"batch:{batch.id}", set())
        yield from _left_out(("batch:claimed",), actions, f"that {batch.id} began")
        yield from _left_out(
            _BATCH_LINES.get(batch.status, ()), actions, f"that {batch.id} is {batch.status}"
        )
    recorded = {line.subject for line in report.chain.lines if _records(line)}
    for request in report.asked.requests:
        subject = f"deletion_request:{request.id}"
        actions = actions_of.get(subject, set())
        if not actions:
            yield f"no audit line mentions {request.id}"
            continue
        if subject not in recorded:
            yield f"no audit line says that {request.id} was asked: lines were left out"
        yield from _left_out(
            _REQUEST_LINES.get(request.status, ()),
            actions,
            f"that {request.id} is {request.status}",
        )


def _records(line: Line) -> bool:
    """Return whether the line records a request; one of nothing but forgotten rows is completed."""
    # The line that completes any other request does not say what matched.
    return line.action in _RECORDED or (line.action == _COMPLETED and "matched" in line.data)


def _version_lines_left_out(report: Report, actions: set[str]) -> Iterator[str]:
    if "version:registered" not in actions:
        yield "no audit line registers this version"
    if report.measured is not None:
        yield from _left_out(("version:verified",), actions, "that this version was verified")
    if report.production or report.done.published_at is not None:
        live = ("version:promoted", "version:imported")
        yield from _left_out(live, actions, "that this version was published")
    if report.done.retired_at is not None:
        yield from _left_out(("version:retired",), actions, "that this version was retired")
    if report.done.withdrawn_at is not None:
        yield from _left_out(("version:withdrawn",), actions, "that this version was withdrawn")
    wanted = _VERSION_LINES.get(report.status, ())
    yield from _left_out(wanted, actions, f"that this version is {report.status}")


def _left_out(wanted: Sequence[str], actions: set[str], what: str) -> Iterator[str]:
    if wanted and not actions.intersection(wanted):
        yield f"no audit line says {what}: lines were left out"


def _version(report: Report, number: int) -> str:
    return f"version:{report.model}/{number}"
