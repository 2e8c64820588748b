"""What went wrong in a computation, and whose fault it is.

The machine's faults may be gone at the next attempt. Everything else is the model's, its recipe's
or its rows': the same computation would end the same way each time.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from service.messages.operation import Struct


class FailureKind(StrEnum):
    """What a worker tells failures apart by."""

    # The machine's.
    OUT_OF_MEMORY = "OutOfMemory"
    DEVICE_FAULT = "DeviceFault"
    SYSTEM = "System"
    STORE_UNREADABLE = "Unreadable"
    #: The request is none that this process knows: its code is of another version.
    BAD_REQUEST = "BadRequest"
    # The bucket's.
    BUCKET_UNREACHABLE = "Unreachable"
    BUCKET_REFUSED = "Refused"
    # The store's contents'.
    CORRUPT_CHECKPOINT = "CorruptCheckpoint"
    NOT_STORED = "NotStored"
    DAMAGED_CACHE = "DamagedCache"
    # The method's.
    NEEDS_RETRAIN = "NeedsRetrain"
    UNUSABLE_DIRECTION = "UnusableDirection"
    WRONG_OPTIONS = "WrongOptions"
    UNKNOWN_NAME = "UnknownName"
    DIVERGED = "Diverged"
    NOTHING_RETAINED = "NothingRetained"
    #: The request counts on something that this process was not told, or remembers no more.
    NOT_KNOWN = "NotKnown"
    #: Any other error, such as one that a network or a method of somebody's own raises.
    UNFORESEEN = "Unforeseen"


@dataclass(frozen=True, kw_only=True)
class Failure(Struct):
    """What is said in place of an answer.

    ``name`` is what people know the error by: its class, or the kind where that says more.
    """

    kind: FailureKind
    name: str
    message: str


MACHINE_FAULTS = frozenset(
    {
        FailureKind.OUT_OF_MEMORY,
        FailureKind.DEVICE_FAULT,
        FailureKind.SYSTEM,
        FailureKind.STORE_UNREADABLE,
        FailureKind.BAD_REQUEST,
    }
)

#: The same computation goes on once the bucket answers.
STORE_AWAY = frozenset({FailureKind.BUCKET_UNREACHABLE, FailureKind.BUCKET_REFUSED})
