"""Check that the parts of a deletion receipt do not contradict each other."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from service.audit_shape import Receipt

#: States that need a line of the chain, and its action.
_SAID = {
    "completed": "deletion_request:completed",
    "no_match": "deletion_request:no_match",
    "cancelled": "deletion_request:cancelled",
    "denied": "deletion_request:denied",
}
#: States in which no model was changed because of the request.
_NOTHING_DONE = frozenset({"no_match", "cancelled", "denied"})


def problems(receipt: Receipt) -> Iterator[str]:
    """Yield every contradiction, a sentence each."""
    yield from _lines(receipt)
    if not receipt.does_not_prove:
        yield "the receipt does not say what it does not prove"
    if (receipt.ended_at is not None) != (receipt.state in _SAID):
        yield "the request has ended and is open at once"
    done = [one for one in receipt.models if one.state == "completed"]
    if any((one.state == "completed") != (one.completed_at is not None) for one in receipt.models):
        yield "a model is done without a moment, or has a moment and is not done"
    if any((one.state == "completed") != (one.result is not None) for one in receipt.models):
        yield "a model is done without a result, or has a result and is not done"
    if receipt.state == "completed" and len(done) != len(receipt.models):
        yield "the request is completed although a model is not done"
    if receipt.state in _NOTHING_DONE and done:
        yield "nothing was to be done, and a model is done"
    yield from _rows(receipt)


def _lines(receipt: Receipt) -> Iterator[str]:
    lines, head = receipt.chain.lines, receipt.chain.head
    if any(after.seq <= before.seq for before, after in pairwise(lines)):
        yield "the audit lines are not in order"
    if any(line.seq > head.seq for line in lines):
        yield "the audit lines do not fit under the signed head of the chain"
    if any(line.seq == head.seq and line.hash != head.hash for line in lines):
        yield "the last audit line has another hash than the signed head of the chain"
    if head.at != receipt.at:
        yield "the head of the chain was signed at another moment than the receipt"
    if head.signature.get("key_id") != receipt.signature.get("key_id"):
        yield "another key signed the head of the chain than the receipt"
    if not lines:
        yield "no audit line tells of the request"
    wanted = _SAID.get(receipt.state)
    if wanted is not None and wanted not in {line.action for line in lines}:
        yield f"no audit line says that the request is {receipt.state}"


def _rows(receipt: Receipt) -> Iterator[str]:
    rows = receipt.raw_rows
    if rows is None:
        return
    if rows.rows is not None and rows.overwritten is not None:
        if not 0 <= rows.overwritten <= rows.rows:
            yield "more stored rows were overwritten than there are"
        if rows.all_overwritten != (rows.rows == rows.overwritten):
            yield "the counts of stored rows say something else than the sentence"
    if receipt.state == "completed" and not rows.all_overwritten:
        yield "the request is completed although stored rows stand"
