"""Shapes of audit."""

# Written by `make client` from the OpenAPI document; do not edit.

from __future__ import annotations

from enum import StrEnum

from ..answers import Answer


class Action(StrEnum):
    """What happened, according to an audit line: ``noun:verb``."""

    DATASET_CREATED = "dataset:created"
    DATASET_INGESTED = "dataset:ingested"
    DATASET_FAILED = "dataset:failed"
    DATASET_APPEND_QUEUED = "dataset:append_queued"
    DATASET_APPENDED = "dataset:appended"
    DATASET_APPEND_FAILED = "dataset:append_failed"
    DATASET_TEXTS_READ = "dataset:texts_read"
    DATASET_WITHDRAWN = "dataset:withdrawn"
    DATASET_PURGED = "dataset:purged"
    MODEL_CREATED = "model:created"
    MODEL_PREPARED = "model:prepared"
    MODEL_FAILED = "model:failed"
    MODEL_POLICY_CHANGED = "model:policy_changed"
    MODEL_RUN_NOW = "model:run_now"
    MODEL_WITHDRAWN = "model:withdrawn"
    MODEL_PURGED = "model:purged"
    TRAINING_RUN_QUEUED = "training_run:queued"
    TRAINING_RUN_STARTED = "training_run:started"
    TRAINING_RUN_COMPLETED = "training_run:completed"
    TRAINING_RUN_FAILED = "training_run:failed"
    TRAINING_RUN_HANDED_BACK = "training_run:handed_back"
    TRAINING_RUN_CANCELLED = "training_run:cancelled"
    TRAINING_RUN_STATE_DESTROYED = "training_run:state_destroyed"
    RECORD_LIST_CREATED = "record_list:created"
    TOKENIZER_ADDED = "tokenizer:added"
    TOKENIZER_REMOVED = "tokenizer:removed"
    ENCODER_CREATED = "encoder:created"
    ENCODER_CHECKED = "encoder:checked"
    ENCODER_FAILED = "encoder:failed"
    ENCODER_REMOVED = "encoder:removed"
    VERSION_REGISTERED = "version:registered"
    VERSION_IMPORTED = "version:imported"
    VERSION_VERIFIED = "version:verified"
    VERSION_PROMOTED = "version:promoted"
    VERSION_SET_ASIDE = "version:set_aside"
    VERSION_APPROVED = "version:approved"
    VERSION_REJECTED = "version:rejected"
    VERSION_RETIRED = "version:retired"
    VERSION_WITHDRAWN = "version:withdrawn"
    VERSION_PURGED = "version:purged"
    VERSION_STATE_DESTROYED = "version:state_destroyed"
    VERSION_COMPARED = "version:compared"
    VERSION_COPIED = "version:copied"
    VERSION_COPY_REMOVED = "version:copy_removed"
    VERSION_COPY_FOUND = "version:copy_found"
    DELETION_REQUEST_PREVIEWED = "deletion_request:previewed"
    DELETION_REQUEST_ACCEPTED = "deletion_request:accepted"
    DELETION_REQUEST_AWAITING_APPROVAL = "deletion_request:awaiting_approval"
    DELETION_REQUEST_APPROVED = "deletion_request:approved"
    DELETION_REQUEST_DENIED = "deletion_request:denied"
    DELETION_REQUEST_NO_MATCH = "deletion_request:no_match"
    DELETION_REQUEST_CLAIMED = "deletion_request:claimed"
    DELETION_REQUEST_EXCLUDED = "deletion_request:excluded"
    DELETION_REQUEST_COMPLETED = "deletion_request:completed"
    DELETION_REQUEST_CANCELLED = "deletion_request:cancelled"
    DELETION_REQUEST_NEEDS_REVIEW = "deletion_request:needs_review"
    DELETION_REQUEST_RETRIED = "deletion_request:retried"
    DELETION_REQUEST_HOLDER_WITHDRAWN = "deletion_request:holder_withdrawn"
    DELETION_REQUEST_LEGAL_HOLD_PLACED = "deletion_request:legal_hold_placed"
    DELETION_REQUEST_LEGAL_HOLD_RELEASED = "deletion_request:legal_hold_released"
    DELETION_REQUEST_EXTENDED = "deletion_request:extended"
    DELETION_REQUEST_DUE_SOON = "deletion_request:due_soon"
    DELETION_REQUEST_OVERDUE = "deletion_request:overdue"
    DELETION_REQUEST_REOPENED = "deletion_request:reopened"
    BULK_DECISION_BEGUN = "bulk_decision:begun"
    BULK_DECISION_ENDED = "bulk_decision:ended"
    BATCH_CLAIMED = "batch:claimed"
    BATCH_TAKEN_OVER = "batch:taken_over"
    BATCH_LEFT_TO_TRAINING = "batch:left_to_training"
    BATCH_HELD = "batch:held"
    BATCH_COMPLETED = "batch:completed"
    BATCH_FAILED = "batch:failed"
    BATCH_HANDED_BACK = "batch:handed_back"
    BATCH_SPLIT = "batch:split"
    BATCH_STATE_DESTROYED = "batch:state_destroyed"
    RECORDS_ERASED = "records:erased"
    SUPPRESSION_LIFTED = "suppression:lifted"
    KEY_CREATED = "key:created"
    KEY_REVOKED = "key:revoked"
    KEY_SIGNED_IN = "key:signed_in"
    KEY_SIGNED_OUT = "key:signed_out"
    WEBHOOK_CREATED = "webhook:created"
    WEBHOOK_CHANGED = "webhook:changed"
    WEBHOOK_ENABLED = "webhook:enabled"
    WEBHOOK_DISABLED = "webhook:disabled"
    WEBHOOK_SECRET_ROTATED = "webhook:secret_rotated"
    WEBHOOK_REPLAYED = "webhook:replayed"
    WEBHOOK_TESTED = "webhook:tested"
    WEBHOOK_REMOVED = "webhook:removed"
    RESTORE_REPLAYED = "restore:replayed"
    LEDGER_RECONCILED = "ledger:reconciled"


class Consistency(Answer):
    """The proof that the log continues an earlier one: no line was changed or removed."""

    type: str
    first: int
    #: base64; compare it with the checkpoint that you kept
    first_root: str
    second: int
    #: base64
    second_root: str
    #: hashes in the order of RFC 6962, base64
    proof: list[str]
    #: signed note (c2sp.org/tlog-checkpoint) over the log of this size
    checkpoint: str


class Inclusion(Answer):
    """The proof that a line of the chain is in its log."""

    type: str
    line: int
    #: the line's own hash; its 32 bytes are the log's entry
    hash: str
    size: int
    #: base64
    root: str
    #: hashes in the order of RFC 6962, base64
    proof: list[str]
    #: signed note (c2sp.org/tlog-checkpoint) over the log of this size
    checkpoint: str


class PublicKey(Answer):
    """A JSON Web Key (RFC 8037)."""

    kty: str
    crv: str
    use: str
    alg: str
    kid: str
    x: str
    status: str
    #: the same key for the log's checkpoints, as c2sp.org/signed-note has it
    verifier_key: str


class PublicKeys(Answer):
    """The keys under which reports and checkpoints were or are signed."""

    keys: list[PublicKey]
