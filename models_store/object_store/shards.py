"""A shard: some thousand rows of a dataset, encrypted under a key that is used once.

It has a fixed beginning, the length of the first message, and two AES-256-GCM messages: the digests
(m, 16) uint8 and labels (m,) int64 of its rows, and the rows themselves. They are separate so that
digests can be read without the rows. Nonces are fixed, because every key encrypts one shard.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from models_store.protocols import DIGEST_BYTES

_BEGINNING = b"UNLEARN-SHARD-1\n"
_LENGTH_BYTES = 8
HEAD_BYTES = len(_BEGINNING) + _LENGTH_BYTES
_FACTS, _ROWS = (0).to_bytes(12, "big"), (1).to_bytes(12, "big")
_TAG_BYTES = 16

MOST_ROWS = 4096
MOST_BYTES = 8 << 20


class WrongShard(Exception):
    """The bytes are not a shard under this key."""


@dataclass
class Plain:
    """Rows (m, *shape), labels (m,) int64 and digests (m, 16) uint8 of a shard; zeros if erased."""

    rows: npt.NDArray[Any]
    labels: npt.NDArray[np.int64]
    digests: npt.NDArray[np.uint8]


def new_key() -> bytes:
    """Return a new random key of 32 bytes."""
    return AESGCM.generate_key(bit_length=256)


def rows_of(dtype: np.dtype[Any], shape: Sequence[int]) -> int:
    """Return how many rows of this form a shard holds."""
    return max(1, min(MOST_ROWS, MOST_BYTES // max(1, dtype.itemsize * math.prod(shape))))


def facts_bytes(rows: int) -> int:
    """Return the length of a shard's beginning that ``decrypt_facts`` needs."""
    return HEAD_BYTES + rows * (DIGEST_BYTES + 8) + _TAG_BYTES


def encrypt(plain: Plain, key: bytes) -> bytes:
    """Return a shard's bytes; the key must never be used again."""
    cipher = AESGCM(key)
    facts = plain.digests.tobytes() + plain.labels.astype("<i8").tobytes()
    first = cipher.encrypt(_FACTS, facts, _about(len(plain.labels)))
    raw = np.ascontiguousarray(plain.rows).reshape(-1).view(np.uint8).data
    second = cipher.encrypt(_ROWS, raw, _about(len(plain.labels)))
    return b"".join((_BEGINNING, len(first).to_bytes(_LENGTH_BYTES, "big"), first, second))


def decrypt(
    shard: bytes, key: bytes, *, rows: int, dtype: np.dtype[Any], shape: Sequence[int]
) -> Plain:
    """Return a shard's content, read-only; raise ``WrongShard`` if the key does not match."""
    digests, labels = decrypt_facts(shard, key, rows=rows)
    raw = _decrypted(key, _ROWS, memoryview(shard)[facts_bytes(rows) :], rows)
    if len(raw) != rows * dtype.itemsize * math.prod(shape):
        raise WrongShard
    return Plain(np.frombuffer(raw, dtype).reshape(rows, *shape), labels, digests)


def decrypt_facts(
    beginning: bytes | memoryview, key: bytes, *, rows: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return digests and labels from the first ``facts_bytes`` of a shard."""
    view = memoryview(beginning)
    length = facts_bytes(rows) - HEAD_BYTES
    expected = _BEGINNING + length.to_bytes(_LENGTH_BYTES, "big")
    if bytes(view[:HEAD_BYTES]) != expected:
        raise WrongShard
    facts = _decrypted(key, _FACTS, view[HEAD_BYTES : HEAD_BYTES + length], rows)
    digests = np.frombuffer(facts, np.uint8, rows * DIGEST_BYTES).reshape(rows, DIGEST_BYTES)
    return digests, np.frombuffer(facts, "<i8", rows, offset=rows * DIGEST_BYTES).astype(np.int64)


def _decrypted(key: bytes, nonce: bytes, message: memoryview, rows: int) -> bytes:
    try:
        return AESGCM(key).decrypt(nonce, message, _about(rows))
    except (InvalidTag, ValueError) as error:
        raise WrongShard from error


def _about(rows: int) -> bytes:
    return b"rows:%d" % rows
