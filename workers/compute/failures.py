"""Map the errors of a computation to kinds of failure that the worker can tell apart."""

from __future__ import annotations

from models_store import errors as stored
from service.messages.failures import Failure, FailureKind, text_of
from service.messages.wire import BadMessage
from unlearning import errors as unlearned


class NotKnown(Exception):
    """The request relies on data that this process never received or no longer keeps."""


class DamagedCache(stored.CorruptCheckpoint):
    """The anchor's cache is damaged and can be prepared again; the worker chooses the lane."""


#: By the class itself, not by its bases: a missing file is an ``OSError``, too, but not a fault
#: of the machine.
_KINDS: dict[type[BaseException], FailureKind] = {
    OSError: FailureKind.SYSTEM,
    PermissionError: FailureKind.SYSTEM,
    TimeoutError: FailureKind.SYSTEM,
    InterruptedError: FailureKind.SYSTEM,
    BlockingIOError: FailureKind.SYSTEM,
    BadMessage: FailureKind.BAD_REQUEST,
    stored.Unreadable: FailureKind.STORE_UNREADABLE,
    stored.Unreachable: FailureKind.BUCKET_UNREACHABLE,
    stored.Refused: FailureKind.BUCKET_REFUSED,
    stored.CorruptCheckpoint: FailureKind.CORRUPT_CHECKPOINT,
    stored.NotStored: FailureKind.NOT_STORED,
    DamagedCache: FailureKind.DAMAGED_CACHE,
    unlearned.NeedsRetrain: FailureKind.NEEDS_RETRAIN,
    unlearned.UnusableDirection: FailureKind.UNUSABLE_DIRECTION,
    unlearned.WrongOptions: FailureKind.WRONG_OPTIONS,
    unlearned.UnknownName: FailureKind.UNKNOWN_NAME,
    unlearned.BadDeclaration: FailureKind.UNKNOWN_NAME,
    unlearned.Diverged: FailureKind.DIVERGED,
    unlearned.BadTraining: FailureKind.BAD_TRAINING,
    unlearned.NothingRetained: FailureKind.NOTHING_RETAINED,
    NotKnown: FailureKind.NOT_KNOWN,
}

#: How torch's message begins when host memory runs out; CUDA's error has a class of its own.
_NO_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
)
_OF_THE_DEVICE = ("CUDA error", "cuDNN error", "CUBLAS_STATUS", "NCCL error")


def of(error: BaseException) -> Failure:
    """Return the failure that the worker receives for an error."""
    found = kind(error)
    plain = found in (FailureKind.OUT_OF_MEMORY, FailureKind.DEVICE_FAULT)
    name = found.value if plain else type(error).__name__
    return Failure(kind=found, name=name, message=message(error))


def kind(error: BaseException) -> FailureKind:
    """Return ``OUT_OF_MEMORY`` only if memory ran out, else the kind of the error's class."""
    text = str(error)
    names = {cls.__name__ for cls in type(error).__mro__}
    if isinstance(error, MemoryError) or "OutOfMemoryError" in names:
        return FailureKind.OUT_OF_MEMORY
    if isinstance(error, RuntimeError) and any(sign in text for sign in _NO_MEMORY):
        return FailureKind.OUT_OF_MEMORY
    if "AcceleratorError" in names or (
        isinstance(error, RuntimeError) and any(sign in text for sign in _OF_THE_DEVICE)
    ):
        return FailureKind.DEVICE_FAULT
    return _KINDS.get(type(error), FailureKind.UNFORESEEN)


def message(error: BaseException) -> str:
    """Return the error's text, with what to do where the text alone does not say it."""
    text = text_of(error)[:2000]
    if kind(error) is FailureKind.OUT_OF_MEMORY:
        return (
            f"out of memory ({text or 'no details'}); give the worker more memory, or lower "
            "recipe.batch_size or the size of the architecture"
        )
    return text or type(error).__name__
