"""Check a saved audit report or receipt with the file and, preferably, the public keys alone.

It uses no database, network or settings. The result is always a list of findings: a file that
cannot be read, or is not a report, is a bad finding, too, never an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from service import audit_agreement, audit_page, log_proofs, receipt_agreement
from service.audit_shape import Receipt, Report
from service.ledger.audit import canonical, dsse, hash_chain, notes, signing, statements

#: Largest file that is read.
MAX_BYTES = 256 * 2**20

CHAIN_HEAD = "chain-head"
DELETION_RECEIPT = "deletion-receipt"
PURGE_RECEIPT = "purge-receipt"

Level = Literal["ok", "note", "bad"]


@dataclass(frozen=True)
class Finding:
    """One thing that was checked. Only ``bad`` makes the file unsound."""

    level: Level
    text: str
    #: Whether the signature proves nothing, because anybody could have made it.
    anyone: bool = False


@dataclass(frozen=True)
class Findings:
    """Everything that was found, in the order in which it was checked."""

    found: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Return whether no finding is bad."""
        return all(finding.level != "bad" for finding in self.found)

    def lines(self) -> list[str]:
        """Return one line of text for each finding, and the conclusion."""
        bad = sum(finding.level == "bad" for finding in self.found)
        end = "The file is sound."
        if not self.ok:
            end = f"The file is NOT sound: {bad} finding(s) above."
        elif any(finding.anyone for finding in self.found):
            end = "The file is whole, but anyone could have made it: see the note above."
        told = [f"{finding.level.upper():<5}{_printable(finding.text)}" for finding in self.found]
        return [*told, end]


def verify_file(path: Path, *, keys: Path | None = None) -> Findings:
    """Check a saved report, receipt or chain head.

    ``keys`` is a saved ``unlearning-keys.json``, or a file with one public key in base64. Without
    it the key inside the document is used, which only proves the document's integrity.
    """
    try:
        content = _read(path)
        trusted = None if keys is None else _trusted(_read(keys))
    except (OSError, ValueError) as error:
        return Findings((_bad(f"a file cannot be read: {error}"),))
    return verify_bytes(content, keys=trusted)


def verify_proof(receipt: Path, proof: Path, *, keys: Path | None = None) -> Findings:
    """Check the proof that a line of a saved receipt is in the audit chain's log."""
    try:
        content = _read(receipt)
        if audit_page.is_page(content):
            content = audit_page.signed_bytes(content)
        lines = canonical.decode(content)["chain"]["lines"]
        told = {(line["seq"], line["hash"]) for line in lines}
        said = canonical.decode(_read(proof))
        # A proof of consistency with a line written into it shows nothing of that line.
        ours = said["type"] == log_proofs.INCLUSION and (said["line"], said["hash"]) in told
    except (OSError, ValueError, KeyError, TypeError):
        return Findings((_bad("the proof, or the lines of the receipt, cannot be read"),))
    found = verify_file(proof, keys=keys)
    if not ours:
        return Findings((*found.found, _bad("the proof is about no line of this receipt")))
    return found


def verify_bytes(content: bytes, *, keys: signing.Keys | None = None) -> Findings:
    """Check a saved document, or a page of one, that was already read."""
    if audit_page.is_page(content):
        return _page(content, keys)
    if notes.is_note(content):
        return _of_the_log(lambda: log_proofs.checkpoint(content, keys))
    try:
        document = canonical.decode(content)
        same = canonical.encode(document) == content.rstrip(b"\r\n")
    except ValueError as error:
        return Findings((_bad(f"this is not JSON of the kind that can be signed: {error}"),))
    if not isinstance(document, dict):
        return Findings((_bad("this is not a document"),))
    if dsse.is_envelope(document):
        return _envelope(document, keys)
    if document.get("type") in (log_proofs.INCLUSION, log_proofs.CONSISTENCY):
        return _of_the_log(lambda: log_proofs.proof(document, keys))
    return Findings((_canonical(same), *_signed(document, keys), *_contents(document, keys)))


def _of_the_log(check: Callable[[], log_proofs.Shown]) -> Findings:
    """Check a checkpoint of the log, or a proof against one."""
    try:
        shown = check()
    except ValueError as error:
        return Findings((_bad(f"this does not hold: {error}"),))
    return Findings((_ok(shown.text), *_everybodys(shown.key_id)))


def _envelope(document: Mapping[str, Any], keys: signing.Keys | None) -> Findings:
    """Check a DSSE envelope, and the report in its in-toto statement."""
    try:
        opened = dsse.open_envelope(document)
        if opened.payload_type != dsse.IN_TOTO:
            raise ValueError(f"its payload is not of the type {dsse.IN_TOTO}")
        report = statements.report_in(opened.payload)
        used = opened.check(signing.embedded(report) if keys is None else keys)
    except ValueError as error:
        return Findings((_bad(f"this envelope cannot be trusted: {error}"),))
    held = _ok(f"the envelope's signature over its in-toto statement holds, by key {used}")
    return Findings((held, *verify_bytes(canonical.encode(report), keys=keys).found))


def _page(content: bytes, keys: signing.Keys | None) -> Findings:
    """Check the document in a page, and that the page's words are those of the document."""
    try:
        signed = audit_page.signed_bytes(content)
        document = canonical.decode(signed)
    except ValueError as error:
        return Findings((_bad(f"this page cannot be checked: {error}"),))
    found = verify_bytes(signed, keys=keys)
    if not found.ok:  # a page is made only of a document that is sound
        return found
    return Findings((*found.found, *_words(content, document.get("type"), signed)))


def _words(content: bytes, kind: Any, signed: bytes) -> Iterator[Finding]:
    if not isinstance(kind, str) or kind not in audit_page.KINDS:
        yield _bad(
            "there are no pages of the signed document in this one, so somebody else wrote its "
            "words; trust the document alone"
        )
        return
    again = audit_page.made_again(kind, signed)
    if again is None:
        yield _note(
            "words and pictures of the page were not compared with its signed document, because "
            "this program is installed without pages; trust the document alone"
        )
    elif again.encode() == content.rstrip(b"\r\n"):
        yield _ok("words and pictures of the page are those of its signed document")
    else:
        yield _bad(
            "words or pictures of the page are not those that this program makes of its signed "
            "document: it was changed, or another release made it; trust the document alone"
        )


def _contents(document: dict[str, Any], keys: signing.Keys | None) -> Iterator[Finding]:
    kind = document.get("type")
    if kind in (CHAIN_HEAD, PURGE_RECEIPT):
        yield _ok(f"this is a {kind}; the signature is all there is to check")
        return
    if kind == DELETION_RECEIPT:
        yield from _deletion_receipt(document, keys)
        return
    try:
        report = Report.model_validate(document)
    except ValidationError as error:
        yield _unreadable("report", error)
        return
    yield _ok(f"version {report.version} of {report.model}, {report.status}")
    yield from _lines(report, document["chain"]["lines"])
    yield from _signed_head(document, keys)
    yield from _head(report)
    yield from _receipts(report, keys)
    yield from _agreement(report)


def _deletion_receipt(document: Mapping[str, Any], keys: signing.Keys | None) -> Iterator[Finding]:
    """Check the receipt of a deletion request."""
    try:
        receipt = Receipt.model_validate(document)
    except ValidationError as error:
        yield _unreadable("receipt", error)
        return
    yield _ok(f"receipt of the deletion request {receipt.request.id}, {receipt.state}")
    yield from _signed_head(document, keys)
    problems = list(receipt_agreement.problems(receipt))
    yield from (_bad(problem) for problem in problems)
    if not problems:
        yield _ok("state, models, stored rows and lines agree with each other")


def _unreadable(what: str, error: ValidationError) -> Finding:
    first = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return _bad(f"this is not a {what} that can be checked here: {place}: {first['msg']}")


def _agreement(report: Report) -> Iterator[Finding]:
    """Yield a finding for each contradiction between parts of the report."""
    problems = list(audit_agreement.problems(report))
    yield from (_bad(problem) for problem in problems)
    if not problems:
        yield _ok("counts, digests, lineage and verdict agree with each other and the lines")


def _canonical(same: bool) -> Finding:
    if same:
        return _ok("the file is in canonical form (RFC 8785)")
    return _note("the file was reformatted; it was checked in its canonical form")


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
    yield from _everybodys(used)


def _everybodys(used: str) -> Iterator[Finding]:
    """Yield that everybody has the key that signed, if it is so."""
    if used == signing.development_key_id():
        yield _note(
            "this key is the built-in development key, which is part of the program: everybody "
            "has it, so the signature shows nothing; the service needs an UNLEARN_SIGNING_KEY",
            anyone=True,
        )


def _lines(report: Report, lines: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Check every line alone and after its predecessor; other lines may lie in between."""
    problems = [
        _bad(f"audit line {line['seq']}: {problem}")
        for line in lines
        if (problem := hash_chain.own_problem(line)) is not None
    ]
    first = report.chain.lines[0] if report.chain.lines else None
    if first is not None and first.seq == 1 and first.previous_hash != hash_chain.GENESIS:
        problems.append(_bad("audit line 1 follows another line"))
    for before, after in pairwise(report.chain.lines):
        if after.seq <= before.seq:
            problems.append(_bad(f"audit line {after.seq} is out of order"))
        elif after.seq == before.seq + 1 and after.previous_hash != before.hash:
            problems.append(_bad(f"audit line {after.seq} does not follow line {before.seq}"))
    yield from problems
    if not problems:
        yield _ok(f"the hashes of {len(lines)} audit lines hold, and they fit together")


def _signed_head(document: Mapping[str, Any], keys: signing.Keys | None) -> Iterator[Finding]:
    signed = document["chain"]["head"]
    try:
        signing.check(signed, signing.embedded(signed) if keys is None else keys)
    except signing.BadSignature as error:
        yield _bad(f"signed head of the chain: {error}")


def _head(report: Report) -> Iterator[Finding]:
    head = report.chain.head
    if head.signature.get("key_id") != report.signature.get("key_id"):
        yield _bad("another key signed the head of the chain than the report")
    if head.at != report.at:
        yield _bad("the head of the chain was signed at another moment than the report")
    late = [line.seq for line in report.chain.lines if line.seq > head.seq]
    other = [line for line in report.chain.lines if line.seq == head.seq and line.hash != head.hash]
    if late or other:
        yield _bad("the audit lines do not fit under the signed head of the chain")
    else:
        yield _ok(f"the signed head of the chain holds, at line {head.seq}")


def _receipts(report: Report, keys: signing.Keys | None) -> Iterator[Finding]:
    others: set[str] = set()
    for purge in report.purges:
        receipt = purge.receipt
        try:
            used = signing.check(receipt, signing.embedded(receipt) if keys is None else keys)
        except signing.BadSignature as error:
            yield _bad(f"purge receipt of {purge.subject}: {error}")
            continue
        if receipt.get("type") != PURGE_RECEIPT or receipt.get("version") != purge.subject:
            yield _bad(f"purge receipt of {purge.subject}: it is another version's")
        elif not purge.subject.startswith(f"version:{report.model}/"):
            yield _bad(f"purge receipt of {purge.subject}: it is another model's")
        if keys is None and used != report.signature.get("key_id"):
            others.add(used)
    for used in sorted(others):
        yield _note(
            f"purge receipts are signed by another key, {used}: give the published keys to "
            "see whether it was this service's"
        )
    if report.purges:
        yield _ok(f"{len(report.purges)} purge receipt(s) were looked at")


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
    # Text from the file must not send control codes to the terminal.
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def _ok(text: str) -> Finding:
    return Finding("ok", text)


def _note(text: str, *, anyone: bool = False) -> Finding:
    return Finding("note", text, anyone)


def _bad(text: str) -> Finding:
    return Finding("bad", text)
