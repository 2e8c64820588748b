"""The receipt of a deletion request as a page, for the person whom it is about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.api.negotiation import Page
from service.console import words
from service.console.documents import paper
from service.ledger.audit import canonical

#: What the kinds of requests ask to be deleted.
_ASKED = {
    "subject": "everything about one person",
    "records": "single records",
    "class": "all records of one class",
}

#: Actions of the audit lines that a receipt tells, in words for the person.
_STEPS: Mapping[str, str] = {
    "deletion_request:accepted": "The request was received and accepted.",
    "deletion_request:awaiting_approval": "The request was received; a person has to decide.",
    "deletion_request:approved": "A person approved the request.",
    "deletion_request:denied": "The request was refused.",
    "deletion_request:no_match": "The request was received; nothing matched it.",
    "deletion_request:excluded": "The records were left out of all further training.",
    "deletion_request:completed": "The request was completed.",
    "deletion_request:cancelled": "The request was cancelled.",
    "deletion_request:needs_review": "The request was set aside for a person to look at.",
    "deletion_request:retried": "The request was tried again.",
    "deletion_request:holder_withdrawn": "A model or dataset with the records was withdrawn.",
    "deletion_request:reopened": "The request was opened again, because something was left.",
    "deletion_request:legal_hold_placed": "A legal hold was placed on the records.",
    "deletion_request:legal_hold_released": "The legal hold was released.",
    "deletion_request:extended": "The due date was extended.",
}
_REGULATIONS = {"gdpr": "GDPR", "ccpa": "CCPA", "custom": "a period of its own"}


def page(content: bytes) -> Page:
    """Return the page of the receipt whose canonical bytes are ``content``."""
    document = canonical.decode(content)
    asked = document["request"]
    return paper.render(
        "receipt_page.html",
        content,
        document,
        asked=_ASKED.get(asked["kind"], words.plain(asked["kind"])),
        regulation=_REGULATIONS.get(asked["regulation"], words.plain(asked["regulation"])),
        state=words.REQUESTS.get(document["state"], (words.plain(document["state"]), words.CALM)),
        steps=_steps(document),
        models=[_model(one) for one in document["models"]],
    )


def _steps(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return moments and what happened then; warnings of due dates are for operators."""
    told = [
        (line["at"], _STEPS[line["action"]])
        for line in document["chain"]["lines"]
        if line["action"] in _STEPS
    ]
    done = [
        (one["completed_at"], f"The model {one['model']} was done.")
        for one in document["models"]
        if one["completed_at"] is not None
    ]
    # Of one moment, the models come before the end of the request.
    return sorted([*told[:-1], *done, *told[-1:]], key=lambda step: step[0])


def _model(one: Mapping[str, Any]) -> dict[str, Any]:
    state, tone = words.ERASURES.get(one["state"], (words.plain(one["state"]), words.CALM))
    return {**one, "state": state, "tone": tone, "approximate": one["result"] == "approximate"}
