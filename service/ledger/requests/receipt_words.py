"""The sentences of a receipt, for the person whose deletion request it is about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from service.ledger.database.states import ErasureStatus, RequestStatus

#: How the weights that are live now came about.
Result = Literal["exact", "certified", "approximate", "unknown", "withdrawn"]

#: What the state of a request means.
OF_STATE: Mapping[RequestStatus, str] = {
    RequestStatus.AWAITING_APPROVAL: "The request was received. It is larger than what is carried "
    "out without a person's decision, and waits for that decision. Nothing was deleted yet.",
    RequestStatus.ACCEPTED: "The request was accepted and has not been begun yet.",
    RequestStatus.PROCESSING: "The request is being carried out.",
    RequestStatus.COMPLETED: "The request is completed. Every model that had learned from the "
    "records was changed or replaced, as stated below, and the stored rows are overwritten.",
    RequestStatus.NO_MATCH: "Nothing that is stored matched the request, so there was nothing to "
    "delete.",
    RequestStatus.CANCELLED: "The request was cancelled before anything of it was begun. Nothing "
    "was deleted because of it.",
    RequestStatus.DENIED: "The request was refused. Nothing was deleted because of it.",
    RequestStatus.NEEDS_REVIEW: "The request could not be completed automatically. A person has to "
    "look at it; it stays open.",
}

#: A completed request all of whose records had been deleted before.
FORGOTTEN_BEFORE = (
    "Everything that the request matches had been deleted, or was being deleted, before. Nothing "
    "was left to do."
)

#: A request whose records are kept although their deletion was asked for.
UNDER_HOLD = "A legal hold keeps the records from being destroyed. The request goes on after it."

#: What a model's part in a request means, while it is not completed.
OF_SHARE: Mapping[ErasureStatus, str] = {
    ErasureStatus.PENDING: "The model still contains the records; unlearning has not begun.",
    ErasureStatus.CLAIMED: "The records are being unlearned.",
    ErasureStatus.CANCELLED: "The model was left as it was, because the request ended.",
    ErasureStatus.NEEDS_REVIEW: "Unlearning failed repeatedly; a person has to look at it.",
}

#: What was done with a model, and what that means.
OF_RESULT: Mapping[Result, str] = {
    "exact": "The model was trained again from the start without the records. Its weights cannot "
    "depend on them.",
    "certified": "The part of the model that was fitted to the records was computed anew without "
    "them, and a certificate shows that it equals a fit without them. What other parts of the "
    "model may have learned earlier is as it was.",
    "approximate": "The model's weights were changed by an approximate method, so that it answers "
    "about the records as it does about data that it never saw. They are not the weights of a "
    "training without the records. How far this went is an estimate, and no bound is claimed.",
    "unknown": "The model that is in use was trained outside this service. That it was trained "
    "without the records is what the person who imported it stated.",
    "withdrawn": "The model was taken out of service, or nothing of it is in use: nothing was left "
    "to unlearn.",
}

#: A certified result of a model that is near a fit without the records, and not equal to it.
WITHIN_A_BOUND = (
    "The part of the model that was fitted to the records was computed anew without them, and a "
    "certificate bounds how far it can be from a fit without them: so little that it makes no "
    "difference to an answer. What other parts of the model may have learned earlier is as it was."
)

#: What the measurement of an approximate update showed.
OF_VERDICT: Mapping[str, str] = {
    "passed": "Measured: tests that try to tell the records from data that was never seen found "
    "no more than the limits that were set beforehand.",
    "no_power": "Measured: with these records no test could tell a model that forgot them from "
    "one that did not. That is no evidence that they were forgotten.",
    "memorised": "Measured: the model had memorised the records before, and nothing shows that "
    "it has forgotten them.",
    "failed": "Measured: the tests did not pass, and are no evidence that the records were "
    "forgotten.",
    "accuracy_drop": "The records are out; the model answers less accurately than before.",
}

#: Why a request was refused, by ``lifecycle.DenialReason``.
OF_DENIAL: Mapping[str, str] = {
    "identity_not_verified": "the identity of the person who asked was not verified",
    "manifestly_unfounded": "the request is manifestly unfounded",
    "excessive": "the request is excessive",
    "freedom_of_expression": "the freedom of expression and information",
    "legal_obligation": "a legal obligation to keep the data",
    "public_health": "the public interest in public health",
    "archiving_or_research": "archiving or research in the public interest",
    "legal_claims": "legal claims",
    "duplicate": "another request asks for the same",
    "other": "another reason, which the operator of this service states",
}

#: Why records are kept, by ``legal_holds.HoldReason``.
OF_HOLD: Mapping[str, str] = {
    "legal_claims": "legal claims",
    "legal_obligation": "a legal obligation to keep the data",
    "authority_order": "an order of a court or an authority",
}

RIGHTS = (
    "Whoever does not agree with the refusal can ask the operator for the reasons, complain to a "
    "supervisory authority, and go to court (GDPR, article 12(4))."
)

ROWS_STAND = "The stored rows of the request are not overwritten yet, or not all of them."
LIVE_HOLDS = "At least one model that is in use may still contain the records."
EARLIER_WEIGHTS = (
    "Weights of earlier versions, and data computed for them, that contain the records are kept "
    "without being used, for a while. They are destroyed automatically, the last of them at the "
    "moment stated, or once nothing that is in use needs them any more."
)
WEIGHTS_NEEDED = (
    "Weights of an earlier version that contain the records are kept without being used, because "
    "what is in use was computed from them. They are destroyed after the next full training."
)
KEYED_DIGEST = (
    "A keyed digest of what the person was named by is kept, so that their data is left out if it "
    "is read in again. Without the operator's key it cannot be traced back to the person."
)
RECORD = (
    "That there was a request, its dates, and what was done are kept in the operator's log, "
    "without the person's name or the ids of records."
)

NOT_PROVED = (
    "It does not prove that copies outside this service are gone: backups, the files that the data "
    "was read from, and models that others downloaded before. Ask the operator how long backups "
    "are kept.",
    "It does not prove that every record about the person was found: the request matched what the "
    "service knows under the name, or the ids, that were given.",
    "It says what the service recorded of itself, signed with its own key. The signature shows "
    "that nobody has changed it since.",
)

HOW_TO_CHECK = (
    "Keep the signed file (JSON) that belongs to this receipt, or this page, which contains it.",
    "Get the public keys once from /.well-known/unlearning-keys.json at the address of the "
    "service, and keep them.",
    "Run: unlearn receipts verify receipt.json --keys unlearning-keys.json",
    "Signed are the bytes of the file's canonical JSON (RFC 8785) without the value of the "
    "signature, by Ed25519. Words and layout of a page are not signed; they repeat the file.",
)


def denial(code: str | None) -> str:
    """Return why a request was refused; a reason of a later release as it is named."""
    return OF_DENIAL.get(code or "other", (code or "other").replace("_", " "))


def hold(code: str) -> str:
    """Return why records are kept."""
    return OF_HOLD.get(code, code.replace("_", " "))
