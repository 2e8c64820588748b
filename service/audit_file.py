"""Check a saved audit report with nothing but the file and, better, the service's public keys.

No database, no network and no settings are used. Whatever the file holds, the answer is a list of
findings: a file that cannot be read, or is no report, is a bad finding too, never an exception.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from service.ledger import canonical, chain, signing

#: Largest file that is read.
MAX_BYTES = 256 * 2**20

CHAIN_HEAD = "chain-head"
PURGE_RECEIPT = "purge-receipt"

Level = Literal["ok", "note", "bad"]


@dataclass(frozen=True)
class Finding:
    """One thing that was checked. Only ``bad`` speaks against the file."""

    level: Level
    text: str


@dataclass(frozen=True)
class Findings:
    """Everything that was found, in the order in which it was checked."""

    found: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against the file."""
        return all(finding.level != "bad" for finding in self.found)

    def lines(self) -> list[str]:
        """One line of text per finding, and the conclusion."""
        bad = sum(finding.level == "bad" for finding in self.found)
        end = "The file is sound." if self.ok else f"The file is NOT sound: {bad} finding(s) above."
        told = [f"{finding.level.upper():<5}{_printable(finding.text)}" for finding in self.found]
        return [*told, end]


def verify_file(path: Path, *, keys: Path | None = None) -> Findings:
    """Check a saved report, chain head or purge receipt.

    ``keys`` is a saved ``unlearning-keys.json``, or a file with one public key in base64. Without
    it the key inside the document is used, which shows only that the document is whole.
    """
    try:
        content = _read(path)
        trusted = None if keys is None else _trusted(_read(keys))
    except (OSError, ValueError) as error:
        return Findings((_bad(f"a file cannot be read: {error}"),))
    return verify_bytes(content, keys=trusted)


def verify_bytes(content: bytes, *, keys: signing.Keys | None = None) -> Findings:
    """Same, of a document already read."""
    try:
        document = canonical.decode(content)
        same = canonical.encode(document) == content.rstrip(b"\r\n")
    except ValueError as error:
        return Findings((_bad(f"this is not JSON of the kind that can be signed: {error}"),))
    if not isinstance(document, dict):
        return Findings((_bad("this is no document"),))
    return Findings((_canonical(same), *_signed(document, keys), *_contents(document, keys)))


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", hide_input_in_errors=True)


class _Line(_Shape):
    seq: int
    at: str
    actor: str
    action: str
    subject: str
    data: dict[str, Any]
    previous_hash: str
    hash: str


class _Head(_Shape):
    type: Literal["chain-head"]
    seq: int
    hash: str
    at: str
    signature: dict[str, Any]


class _Chain(_Shape):
    lines: list[_Line]
    head: _Head


class _Request(_Shape):
    id: str
    matched: int
    records: list[str]


class _AskedCounts(_Shape):
    requests: int
    records: int


class _RawRows(_Shape):
    records: int
    overwritten: int


class _Asked(_Shape):
    requests: list[_Request]
    counts: _AskedCounts
    raw_rows: _RawRows


class _Name(_Shape):
    version: int
    digest: str


class _Batch(_Shape):
    id: str
    count: int
    records: list[str]


class _Done(_Shape):
    origin: str
    guarantee: str
    base: _Name | None
    anchor: _Name
    digest_before: str | None
    digest_after: str
    batch: _Batch | None


class _Gate(_Shape):
    gate: str
    concern: str
    outcome: str


class _Measured(_Shape):
    verdict: str
    gates: list[_Gate] | None = None


class _Step(_Name):
    batch: str | None
    forgotten: int


class _Purge(_Shape):
    subject: str
    receipt: dict[str, Any]


class _Report(_Shape):
    type: Literal["audit-report"]
    format: Literal[1]
    model: str
    version: int
    status: str
    production: bool
    asked: _Asked
    done: _Done
    measured: _Measured | None
    lineage: list[_Step]
    carries_forgotten: list[str]
    remaining: list[dict[str, Any]]
    purges: list[_Purge]
    does_not_prove: list[str]
    chain: _Chain


def _contents(document: dict[str, Any], keys: signing.Keys | None) -> Iterator[Finding]:
    kind = document.get("type")
    if kind in (CHAIN_HEAD, PURGE_RECEIPT):
        yield _ok(f"this is a {kind}; the signature is all there is to check")
        return
    try:
        report = _Report.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        yield _bad(f"this is not a report that can be checked here: {place}: {first['msg']}")
        return
    yield _ok(f"version {report.version} of {report.model}, {report.status}")
    yield from _lines(report, document["chain"]["lines"])
    yield from _head(report, document["chain"]["head"], keys)
    yield from _receipts(report, keys)
    yield from _agreement(report)


def _canonical(same: bool) -> Finding:
    if same:
        return _ok("the file is in canonical form (RFC 8785)")
    return _note("the file was formatted anew; it was checked in its canonical form")


def _signed(document: Mapping[str, Any], keys: signing.Keys | None) -> Iterator[Finding]:
    try:
        used = signing.check(document, signing.embedded(document) if keys is None else keys)
    except signing.BadSignature as error:
        yield _bad(f"signature: {error}")
        return
    yield _ok(f"the Ed25519 signature holds, by key {used}")
    if keys is None:
        yield _note(
            "no trusted key was given: the signature shows that the document is whole, but anyone "
            "could have made it; compare the key id with /.well-known/unlearning-keys.json"
        )


def _lines(report: _Report, lines: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Every line alone, and each after the one before; other lines may lie in between."""
    problems = [
        _bad(f"audit line {line['seq']}: {problem}")
        for line in lines
        if (problem := chain.own_problem(line)) is not None
    ]
    for before, after in pairwise(report.chain.lines):
        if after.seq <= before.seq:
            problems.append(_bad(f"audit line {after.seq} is out of order"))
        elif after.seq == before.seq + 1 and after.previous_hash != before.hash:
            problems.append(_bad(f"audit line {after.seq} does not follow line {before.seq}"))
    yield from problems
    if not problems:
        yield _ok(f"the hashes of {len(lines)} audit lines hold, and they fit together")


def _head(
    report: _Report, document: Mapping[str, Any], keys: signing.Keys | None
) -> Iterator[Finding]:
    head = report.chain.head
    try:
        signing.check(document, signing.embedded(document) if keys is None else keys)
    except signing.BadSignature as error:
        yield _bad(f"signed head of the chain: {error}")
        return
    late = [line.seq for line in report.chain.lines if line.seq > head.seq]
    other = [line for line in report.chain.lines if line.seq == head.seq and line.hash != head.hash]
    if late or other:
        yield _bad("the audit lines do not fit under the signed head of the chain")
    else:
        yield _ok(f"the signed head of the chain holds, at line {head.seq}")


def _receipts(report: _Report, keys: signing.Keys | None) -> Iterator[Finding]:
    for purge in report.purges:
        receipt = purge.receipt
        try:
            signing.check(receipt, signing.embedded(receipt) if keys is None else keys)
        except signing.BadSignature as error:
            yield _bad(f"purge receipt of {purge.subject}: {error}")
            continue
        if receipt.get("version") != purge.subject:
            yield _bad(f"purge receipt of {purge.subject}: it is another version's")
    if report.purges:
        yield _ok(f"{len(report.purges)} purge receipt(s) were looked at")


def _agreement(report: _Report) -> Iterator[Finding]:
    """What one part of the report says, another must not deny."""
    problems = [
        *_counts(report),
        *_digests(report),
        *_verdict(report),
        *_told_by_the_lines(report),
    ]
    yield from (_bad(problem) for problem in problems)
    if not problems:
        yield _ok("counts, digests, lineage and verdict agree with each other and the lines")


def _counts(report: _Report) -> Iterator[str]:
    asked, batch = report.asked, report.done.batch
    named = {record for request in asked.requests for record in request.records}
    if asked.counts.requests != len(asked.requests):
        yield "the count of requests is not that of the requests listed"
    if asked.counts.records != len(named) or asked.raw_rows.records != len(named):
        yield "the count of records is not that of the records listed"
    if not 0 <= asked.raw_rows.overwritten <= asked.raw_rows.records:
        yield "more raw rows were overwritten than there are"
    for request in asked.requests:
        if request.matched != len(request.records):
            yield f"{request.id} matched another number of records than it lists"
    if batch is not None:
        if batch.count != len(batch.records) or len(set(batch.records)) != batch.count:
            yield "the batch counts other records than it lists"
        if not set(batch.records) <= named:
            yield "the batch forgot records that no request names"


def _digests(report: _Report) -> Iterator[str]:
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


def _verdict(report: _Report) -> Iterator[str]:
    if not report.does_not_prove:
        yield "the report does not say what it does not prove"
    if report.production and report.carries_forgotten:
        yield "the version is live although it still carries forgotten records"
    measured = report.measured
    if measured is None:
        return
    if measured.gates is not None and measured.verdict != _overall(measured.gates):
        yield f"the verdict {measured.verdict} is not what the outcomes of the gates come to"
    live = report.production or report.status == "published"
    if measured.verdict == "failed" and live and not _only_accuracy(report):
        yield "the version is live although its verification failed"


def _only_accuracy(report: _Report) -> bool:
    """Whether nothing but accuracy failed, on a version that was trained without the records."""
    gates = (report.measured and report.measured.gates) or []
    failed = {gate.concern for gate in gates if gate.outcome == "failed"}
    return report.done.origin == "retrained" and failed == {"utility"}


def _overall(gates: Sequence[_Gate]) -> str:
    if any(gate.outcome == "failed" for gate in gates):
        return "failed"
    removal = [gate.outcome for gate in gates if gate.concern == "removal"]
    return "passed" if "passed" in removal else "no_power"


def _told_by_the_lines(report: _Report) -> Iterator[str]:
    """The audit lines, whose hashes hold, tell the same story."""
    subject = f"version:{report.model}/{report.version}"
    own = [line for line in report.chain.lines if line.subject == subject]
    if not any(line.action == "version:registered" for line in own):
        yield "no audit line registers this version"
    for line in own:
        digest = line.data.get("digest", report.done.digest_after)
        if digest != report.done.digest_after:
            yield f"audit line {line.seq} names other weights"
        verdict = None if report.measured is None else report.measured.verdict
        if line.action == "version:verified" and line.data.get("verdict") != verdict:
            yield f"audit line {line.seq} names another verdict"
    mentioned = {line.subject for line in report.chain.lines}
    for request in report.asked.requests:
        if f"deletion_request:{request.id}" not in mentioned:
            yield f"no audit line mentions {request.id}"


def _trusted(content: bytes) -> signing.Keys:
    try:
        document = canonical.decode(content)
    except ValueError:
        return signing.pinned_key(content.decode("ascii"))
    return signing.read_keys(document)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"{path} is larger than any report")
    return content


def _printable(text: str) -> str:
    # The words may come from the file: they must not steer the terminal.
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def _ok(text: str) -> Finding:
    return Finding("ok", text)


def _note(text: str) -> Finding:
    return Finding("note", text)


def _bad(text: str) -> Finding:
    return Finding("bad", text)
