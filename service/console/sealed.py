"""What one page hands on to the next through the browser, unreadable there.

A preview hands on what was asked for, which may name a person: a page's source must not. It is
encrypted under a key that is derived from the session, so it opens in that session alone.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import zlib
from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from service.errors import TooLarge, Unprocessable

_NONCE = 12
#: Most characters in a page.
LONGEST = 65_536


def seal(key: bytes, purpose: str, value: Mapping[str, Any]) -> str:
    """Return a text that only ``unseal`` with the same key (32 bytes) and purpose can read."""
    nonce = os.urandom(_NONCE)
    plain = zlib.compress(json.dumps(value, separators=(",", ":")).encode())
    text = base64.urlsafe_b64encode(nonce + AESGCM(key).encrypt(nonce, plain, purpose.encode()))
    if len(text) > LONGEST:
        raise TooLarge(
            "this is too much for one form; send it with the API, or split it into several"
        )
    return text.decode()


def unseal(key: bytes, purpose: str, text: str) -> dict[str, Any]:
    """Return what was sealed; raise ``Unprocessable`` if it was not sealed so."""
    try:
        sealed = base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True)
        plain = AESGCM(key).decrypt(sealed[:_NONCE], sealed[_NONCE:], purpose.encode())
    except (binascii.Error, ValueError, InvalidTag):
        raise Unprocessable(
            "this preview is not one of this session; begin again with the form"
        ) from None
    value: dict[str, Any] = json.loads(zlib.decompress(plain))
    return value
