"""Errors of the store; every message says what to do next."""

from __future__ import annotations


class StoreError(Exception):
    """Base of all expected errors of the store."""


class NotStored(StoreError):
    """Nothing complete is stored under this name."""


class Corrupt(StoreError):
    """The stored bytes differ from those that were written."""


class CorruptCheckpoint(Corrupt):
    """A tensor file or its manifest differs from its digest."""


class CorruptArray(Corrupt):
    """The rows of a dataset differ from their digests."""


class Unavailable(StoreError):
    """The store cannot be read or written now; nothing is wrong with what is stored."""


class BucketUnavailable(Unavailable):
    """Base of errors because of which a bucket cannot be read or written now."""


class Unreachable(BucketUnavailable):
    """A bucket does not answer, takes too long, or answers with a server error."""


class Refused(BucketUnavailable):
    """A bucket does not exist, or refuses access to this process."""


class Unreadable(Unavailable):
    """The store's directory cannot be read."""


class Unwritable(Unavailable):
    """The disk is full or the store's directory cannot be written."""


class InvalidRows(StoreError):
    """Rows given to an array do not fit it."""


class ErasedContent(StoreError):
    """The same dataset is stored already and some of its rows have been erased since."""


class UploadError(StoreError):
    """Base of the reasons for refusing a foreign tensor file."""


class UploadTooLarge(UploadError):
    """The file has more bytes than allowed."""


class NotSafetensors(UploadError):
    """The file does not follow the safetensors format."""


class UploadMismatch(UploadError):
    """A valid safetensors file that does not fit; ``reasons`` has one sentence per tensor."""

    def __init__(self, reasons: list[str]) -> None:
        shown = reasons[:10]
        more = f"; and {len(reasons) - len(shown)} more" if len(reasons) > len(shown) else ""
        super().__init__("The tensors do not fit the architecture: " + "; ".join(shown) + more)
        self.reasons = reasons


def damaged_blob(kind: str, digest: str) -> CorruptCheckpoint:
    """Return the error for a blob whose bytes or manifest differ from what was stored."""
    return CorruptCheckpoint(
        f"{kind}/{digest} is damaged: its bytes do not fit its digest. "
        "Restore it from a backup, or retrain to get a new version."
    )
