"""What went wrong in a computation, and whose fault it is.

The machine's faults may be gone at the next attempt. Everything else is the model's, its recipe's
or its rows': the same computation would end the same way each time.
"""

from __future__ import annotations

OUT_OF_MEMORY = "OutOfMemory"
DEVICE_FAULT = "DeviceFault"

#: Kinds of errors that are the machine's. Others by the name of their class.
MACHINE_FAULTS = frozenset(
    {
        OUT_OF_MEMORY,
        DEVICE_FAULT,
        "OSError",
        "PermissionError",
        "TimeoutError",
        "InterruptedError",
        "BlockingIOError",
        "Unreadable",
    }
)

#: Kinds of errors that are the bucket's: the same computation goes on once it answers.
STORE_AWAY = frozenset({"Unreachable", "Refused"})

#: How torch begins when the processor's memory is used up; the card's has a class of its own.
_NO_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
)
_OF_THE_DEVICE = ("CUDA error", "cuDNN error", "CUBLAS_STATUS", "NCCL error")


def kind(error: BaseException) -> str:
    """Return ``OutOfMemory`` only if memory ran out, else what the worker knows the error by."""
    text = str(error)
    names = {cls.__name__ for cls in type(error).__mro__}
    if isinstance(error, MemoryError) or "OutOfMemoryError" in names:
        return OUT_OF_MEMORY
    if isinstance(error, RuntimeError) and any(sign in text for sign in _NO_MEMORY):
        return OUT_OF_MEMORY
    if "AcceleratorError" in names or (
        isinstance(error, RuntimeError) and any(sign in text for sign in _OF_THE_DEVICE)
    ):
        return DEVICE_FAULT
    return type(error).__name__


def message(error: BaseException) -> str:
    """Return the error's text, with what to do where the text alone does not say."""
    text = str(error)[:2000]
    if kind(error) == OUT_OF_MEMORY:
        return (
            f"out of memory ({text or 'no details'}); give the worker more memory, or lower "
            "recipe.batch_size or the size of the architecture"
        )
    return text or type(error).__name__
