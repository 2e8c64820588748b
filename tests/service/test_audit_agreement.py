"""Reports that contradict themselves, well signed: the offline check finds it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from service import audit_agreement, audit_file
from service.audit_shape import Report
from service.ledger.audit import canonical, hash_chain
from tests.histories import SIGNER
from tests.service.saved_reports import STRANGER

Change = Callable[[dict[str, Any]], Any]


LIES: dict[str, tuple[Change, str]] = {
    "another verdict": (
        lambda d: d["measured"].update(verdict="no_power"),
        "not what the outcomes of the gates come to",
    ),
    "a failed gate turned": (
        lambda d: d["measured"]["gates"][0].update(outcome="failed"),
        "not what the outcomes of the gates come to",
    ),
    "verdict and gates turned": (
        lambda d: (
            d["measured"].update(verdict="failed"),
            d["measured"]["gates"][0].update(outcome="failed"),
        ),
        "names another verdict",
    ),
    "certified without a certificate": (
        lambda d: d["done"].update(guarantee="certified"),
        "has no certificate",
    ),
    "other weights": (
        lambda d: (
            d["done"].update(digest_after="f" * 64),
            d["lineage"][0].update(digest="f" * 64),
        ),
        "names other weights",
    ),
    "other weights before": (
        lambda d: d["done"].update(digest_before="f" * 64),
        "not that of the base",
    ),
    "a request left out": (lambda d: d["asked"]["requests"].pop(), "count of requests"),
    "a request made up": (
        lambda d: (
            d["asked"]["requests"].append(d["asked"]["requests"][0] | {"id": "dr_x"}),
            d["asked"]["counts"].update(requests=3),
        ),
        "no audit line mentions dr_x",
    ),
    "a record left out": (
        lambda d: d["asked"]["requests"][0]["records"].pop(),
        "matched another number",
    ),
    "a record that nobody asked for": (
        lambda d: d["done"]["batch"]["records"].__setitem__(0, "f" * 64),
        "no request names",
    ),
    "more overwritten than there is": (
        lambda d: d["asked"]["raw_rows"].update(overwritten=9),
        "more raw rows",
    ),
    "a count of the batch": (
        lambda d: d["done"]["batch"].update(count=1),
        "counts other records",
    ),
    "a shorter lineage": (lambda d: d["lineage"].pop(), "does not end with the anchor"),
    "no lineage": (lambda d: d["lineage"].clear(), "lineage is empty"),
    "no registration": (lambda d: d["chain"]["lines"].pop(0), "registers this version"),
    "a line changed": (
        lambda d: d["chain"]["lines"][0].update(actor="key:other"),
        "the line was changed",
    ),
    "a line with an extra member": (
        lambda d: d["chain"]["lines"][0].update(note="x"),
        "the line was changed",
    ),
    "lines out of order": (lambda d: d["chain"]["lines"].reverse(), "out of order"),
    "a line of another chain": (
        lambda d: _rechain(d["chain"]["lines"][1], previous_hash="f" * 64),
        "does not follow line",
    ),
    "a head that is too early": (
        lambda d: d["chain"].update(
            head=SIGNER.sign({"type": "chain-head", "seq": 2, "hash": "0" * 64, "at": "x"})
        ),
        "do not fit under the signed head",
    ),
    "a head changed": (lambda d: d["chain"]["head"].update(seq=999), "signed head of the chain:"),
    "a receipt of another version": (
        lambda d: d["purges"][0].update(subject="version:m/9"),
        "another version's",
    ),
    "a receipt changed": (
        lambda d: d["purges"][0]["receipt"].update(destroyed=["all"]),
        "purge receipt of",
    ),
    "live with forgotten records": (
        lambda d: d.update(carries_forgotten=["dr_x"]),
        "still carries forgotten records",
    ),
    "no caveats": (lambda d: d["does_not_prove"].clear(), "does not prove"),
    "a missing part": (
        lambda d: d.pop("lineage"),
        "not a report that can be checked here: lineage",
    ),
    "a format of the future": (lambda d: d.update(format=2), "not a report"),
    "the beginning of a request left out": (
        lambda d: _leave_out(d, "deletion_request:accepted"),
        "was asked: lines were left out",
    ),
    "the end of a request cut off": (
        lambda d: _leave_out(d, "deletion_request:completed"),
        "is completed: lines were left out",
    ),
    "the end of the batch cut off": (
        lambda d: _leave_out(d, "batch:completed"),
        "is completed: lines were left out",
    ),
    "the beginning of the batch left out": (
        lambda d: _leave_out(d, "batch:claimed"),
        "began: lines were left out",
    ),
    "the verification left out": (
        lambda d: _leave_out(d, "version:verified"),
        "that this version was verified: lines were left out",
    ),
    "the promotion left out": (
        lambda d: _leave_out(d, "version:promoted"),
        "that this version was published: lines were left out",
    ),
    "all lines after the fourth cut off": (
        lambda d: d["chain"]["lines"].__delitem__(slice(4, None)),
        "lines were left out",
    ),
    "a line about another model": (
        lambda d: d["chain"]["lines"].append(
            _rechained(d["chain"]["lines"][-1], seq=99, subject="version:other/1")
        ),
        "audit line 99 is about something else",
    ),
    "a first line that follows another": (
        lambda d: d["chain"]["lines"].insert(
            0, _rechained(d["chain"]["lines"][0], seq=1, previous_hash="f" * 64)
        ),
        "audit line 1 follows another line",
    ),
    "a head of another day": (
        lambda d: d["chain"].update(
            head=SIGNER.sign(d["chain"]["head"] | {"at": "2025-01-01T00:00:00.000000Z"})
        ),
        "at another moment",
    ),
    "a head of another service": (
        lambda d: d["chain"].update(head=STRANGER.sign(d["chain"]["head"])),
        "another key signed the head",
    ),
    "a head in place of a receipt": (
        lambda d: d["purges"][0].update(
            receipt=SIGNER.sign({"type": "chain-head", "version": d["purges"][0]["subject"]})
        ),
        "another version's",
    ),
    "a receipt of another model": (
        lambda d: d["purges"].append(
            {
                "line": 1,
                "subject": "version:other/1",
                "receipt": SIGNER.sign({"type": "purge-receipt", "version": "version:other/1"}),
            }
        ),
        "another model's",
    ),
    "no receipt of what was destroyed": (
        lambda d: d["purges"].clear(),
        "said to be destroyed and has no receipt",
    ),
    "what was destroyed remains": (
        lambda d: d["remaining"].append({"kind": "weights", "version": 1}),
        "has a receipt of its destruction and remains",
    ),
    "a copy remains that was removed": (
        lambda d: (
            d["remaining"].append({"kind": "copies", "version": d["version"]}),
            d["chain"]["lines"].append(
                _rechained(
                    _last_own(d), seq=d["chain"]["head"]["seq"], action="version:copy_removed"
                )
            ),
        ),
        "a copy of this version is said to remain",
    ),
    "a request listed twice": (
        lambda d: (
            d["asked"]["requests"].append(d["asked"]["requests"][0]),
            d["asked"]["counts"].update(requests=3),
        ),
        "listed twice",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_report_that_contradicts_itself_is_found_even_if_well_signed(
    sound: dict[str, Any], lie: str
) -> None:
    change, expected = LIES[lie]
    document = copy.deepcopy(sound)
    change(document)
    found = audit_file.verify_bytes(canonical.encode(SIGNER.sign(document)))
    assert not found.ok
    assert expected in " ".join(found.lines())


def test_a_copy_that_was_found_again_after_its_removal_may_remain(sound: dict[str, Any]) -> None:
    document = copy.deepcopy(sound)
    document["remaining"].append({"kind": "copies", "version": document["version"]})
    read = Report.model_validate(document)
    actions = ("version:copied", "version:copy_removed", "version:copy_found")
    made = [read.chain.lines[-1].model_copy(update=_own(document, action)) for action in actions]
    told = "a copy of this version is said to remain, and an audit line removed it"
    for count in range(len(made) + 1):
        chain = read.chain.model_copy(update={"lines": read.chain.lines + made[:count]})
        found = set(audit_agreement.problems(read.model_copy(update={"chain": chain})))
        assert (told in found) == (count == 2)


@pytest.mark.parametrize("state", ["approved", "retried", "cancelled", "denied"])
def test_no_later_line_stands_for_the_one_that_records_a_request(
    sound: dict[str, Any], state: str
) -> None:
    """Such lines say what matched, too."""
    read = Report.model_validate(sound)
    request = f"deletion_request:{read.asked.requests[0].id}"
    changes = {"action": f"deletion_request:{state}", "data": {"matched": 2}}
    lines = [
        one.model_copy(update=changes)
        if (one.subject, one.action) == (request, "deletion_request:accepted")
        else one
        for one in read.chain.lines
    ]
    chain = read.chain.model_copy(update={"lines": lines})
    [problem] = audit_agreement.problems(read.model_copy(update={"chain": chain}))
    assert problem.startswith(f"no audit line says that {read.asked.requests[0].id} was asked")


def _own(document: dict[str, Any], action: str) -> dict[str, Any]:
    subject = f"version:{document['model']}/{document['version']}"
    return {"subject": subject, "action": action, "data": {}}


def _last_own(document: dict[str, Any]) -> dict[str, Any]:
    subject = f"version:{document['model']}/{document['version']}"
    line: dict[str, Any] = [one for one in document["chain"]["lines"] if one["subject"] == subject][
        -1
    ]
    return line


def _rechain(line: dict[str, Any], **changes: Any) -> None:
    line.update(changes)
    line["hash"] = hash_chain.line_hash(line)


def _rechained(line: dict[str, Any], **changes: Any) -> dict[str, Any]:
    made = copy.deepcopy(line)
    _rechain(made, **changes)
    return made


def _leave_out(document: dict[str, Any], action: str) -> None:
    lines = document["chain"]["lines"]
    lines[:] = [line for line in lines if line["action"] != action]
