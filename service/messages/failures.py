"""Failures of a computation, by cause.

Faults of the machine may be gone at the next attempt. All others are due to the model, its recipe
or its rows: the same computation would end the same way each time.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from service.messages.operation import Struct


class FailureKind(StrEnum):
    """Kinds of failure that a worker handles differently."""

    # Of the machine.
    OUT_OF_MEMORY = "OutOfMemory"
    DEVICE_FAULT = "DeviceFault"
    SYSTEM = "System"
    STORE_UNREADABLE = "Unreadable"
    #: The process does not know such a request: its code is of another version.
    BAD_REQUEST = "BadRequest"
    # Of the bucket.
    BUCKET_UNREACHABLE = "Unreachable"
    BUCKET_REFUSED = "Refused"
    # Of the store's contents.
    CORRUPT_CHECKPOINT = "CorruptCheckpoint"
    NOT_STORED = "NotStored"
    DAMAGED_CACHE = "DamagedCache"
    # Of the method.
    NEEDS_RETRAIN = "NeedsRetrain"
    UNUSABLE_DIRECTION = "UnusableDirection"
    WRONG_OPTIONS = "WrongOptions"
    UNKNOWN_NAME = "UnknownName"
    DIVERGED = "Diverged"
    BAD_TRAINING = "BadTraining"
    NOTHING_RETAINED = "NothingRetained"
    #: The request relies on data that this process never received or no longer keeps.
    NOT_KNOWN = "NotKnown"
    #: Any other error, such as one raised by a custom network or method.
    UNFORESEEN = "Unforeseen"


@dataclass(frozen=True, kw_only=True)
class Failure(Struct):
    """The reply in place of an answer.

    ``name`` identifies the error to people: its class, or the kind if that is clearer.
    """

    kind: FailureKind
    name: str
    message: str
    #: Whether the processes end after this reply, because not all of them failed alike.
    last: bool = False


def text_of(error: BaseException) -> str:
    """Return an error as text for people of other machines, without a path of this one.

    An error of the file system has only its reason; its file is for the log.
    """
    if not isinstance(error, OSError):
        return str(error)
    return f"the worker's file system: {error.strerror or type(error).__name__}"


MACHINE_FAULTS = frozenset(
    {
        FailureKind.OUT_OF_MEMORY,
        FailureKind.DEVICE_FAULT,
        FailureKind.SYSTEM,
        FailureKind.STORE_UNREADABLE,
        FailureKind.BAD_REQUEST,
    }
)

#: The same computation continues once the bucket answers.
STORE_AWAY = frozenset({FailureKind.BUCKET_UNREACHABLE, FailureKind.BUCKET_REFUSED})
