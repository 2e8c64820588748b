"""Secrets and signatures of webhooks as Standard Webhooks 1.0.0 has them.

A secret is text: ``whsec_`` and 32 random bytes in base64 for HMAC-SHA256, ``whsk_`` and the seed
of an Ed25519 key for asymmetric signatures, whose public key is ``whpk_`` and 32 bytes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SYMMETRIC, PRIVATE, PUBLIC = "whsec_", "whsk_", "whpk_"

_BYTES = 32


class Scheme(StrEnum):
    """How the deliveries of a webhook are signed."""

    HMAC = "hmac-sha256"  # v1: sender and receiver share a secret
    ED25519 = "ed25519"  # v1a: the receiver has the public key alone


def new_secret(scheme: Scheme) -> str:
    """Return a random secret."""
    prefix = SYMMETRIC if scheme == Scheme.HMAC else PRIVATE
    return prefix + base64.b64encode(secrets.token_bytes(_BYTES)).decode()


def public_key(secret: str) -> str | None:
    """Return the public key that checks the signatures; None for a shared secret."""
    if not secret.startswith(PRIVATE):
        return None
    return PUBLIC + base64.b64encode(_private_key(secret).public_key().public_bytes_raw()).decode()


def headers(
    message_id: str, body: bytes, *, at: datetime, secrets: Iterable[str]
) -> dict[str, str]:
    """Return the headers of one attempt, made ``at``, with a signature by each secret.

    While a secret is being replaced there are two, and a receiver accepts either.
    """
    seconds = str(int(at.timestamp()))
    content = b".".join((message_id.encode(), seconds.encode(), body))
    return {
        "webhook-id": message_id,
        "webhook-timestamp": seconds,
        "webhook-signature": " ".join(_signature(secret, content) for secret in secrets),
    }


def _signature(secret: str, content: bytes) -> str:
    if secret.startswith(PRIVATE):
        version, value = "v1a", _private_key(secret).sign(content)
    else:
        key = base64.b64decode(secret.removeprefix(SYMMETRIC))
        version, value = "v1", hmac.digest(key, content, hashlib.sha256)
    return f"{version},{base64.b64encode(value).decode()}"


def _private_key(secret: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(base64.b64decode(secret.removeprefix(PRIVATE)))
