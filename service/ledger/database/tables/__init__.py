"""Every table of the ledger.

Rows are numbers in a dataset's array; ``records`` gives each its public name. Which records a
version was trained on is always recorded: an anchor (a trained or imported version) saw every row
of the train split, or of the record list that it was imported with, that was not excluded at its
``data_revision``, among the first ``data_rows`` of the dataset, and the batches between the anchor
and a version list what was forgotten since.
"""

from service.ledger.database.tables.audit import AuditEvent, AuditHead
from service.ledger.database.tables.batches import Batch, BatchRecord, BatchState, Lease
from service.ledger.database.tables.bulk_decisions import BulkDecision
from service.ledger.database.tables.columns import DIGEST_LENGTH, NAME_LENGTH
from service.ledger.database.tables.datasets import (
    AppendedRecord,
    DataKey,
    Dataset,
    DatasetAppend,
    DatasetInspection,
    DatasetReport,
    Exclusion,
    Record,
)
from service.ledger.database.tables.files import Encoder, Tokenizer
from service.ledger.database.tables.opendsr import OpenDsrCallback, OpenDsrPart, OpenDsrRequest
from service.ledger.database.tables.reconciliation import Reconciliation
from service.ledger.database.tables.registry import (
    AliasMove,
    ApiKey,
    Artifact,
    Capability,
    ConsoleSession,
    EndedWorkers,
    Import,
    Model,
    Version,
    Worker,
)
from service.ledger.database.tables.registry_copies import RegistryCopy
from service.ledger.database.tables.reports import RecordScore, ShownSet, Verification
from service.ledger.database.tables.requests import (
    DeletionRequest,
    Erasure,
    IdempotencyKey,
    LegalHold,
    RequestDataset,
    RequestRecord,
    Suppression,
)
from service.ledger.database.tables.selection import RecordList, RecordListRow
from service.ledger.database.tables.training import TrainingRun
from service.ledger.database.tables.webhooks import Webhook, WebhookDelivery

__all__ = [
    "DIGEST_LENGTH",
    "NAME_LENGTH",
    "AliasMove",
    "ApiKey",
    "AppendedRecord",
    "Artifact",
    "AuditEvent",
    "AuditHead",
    "Batch",
    "BatchRecord",
    "BatchState",
    "BulkDecision",
    "Capability",
    "ConsoleSession",
    "DataKey",
    "Dataset",
    "DatasetAppend",
    "DatasetInspection",
    "DatasetReport",
    "DeletionRequest",
    "Encoder",
    "EndedWorkers",
    "Erasure",
    "Exclusion",
    "IdempotencyKey",
    "Import",
    "Lease",
    "LegalHold",
    "Model",
    "OpenDsrCallback",
    "OpenDsrPart",
    "OpenDsrRequest",
    "Reconciliation",
    "Record",
    "RecordList",
    "RecordListRow",
    "RecordScore",
    "RegistryCopy",
    "RequestDataset",
    "RequestRecord",
    "ShownSet",
    "Suppression",
    "Tokenizer",
    "TrainingRun",
    "Verification",
    "Version",
    "Webhook",
    "WebhookDelivery",
    "Worker",
]
