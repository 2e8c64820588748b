"""DSSE envelopes: a payload with its type, signed together, as other programs check them.

Dead Simple Signing Envelope, version 1 (github.com/secure-systems-lab/dsse). The same Ed25519 key
signs as for documents. What it signs begins with ``DSSEv1 ``, and a document's canonical JSON with
``{``, so that no signature is valid for the other form.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from service.ledger.audit.signing import BadSignature, Keys, Signer

#: Type of a payload that is an in-toto statement.
IN_TOTO = "application/vnd.in-toto+json"


def encoded(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes that are signed: the pre-authentication encoding of type and payload."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(payload: bytes, *, payload_type: str, signer: Signer) -> dict[str, Any]:
    """Return an envelope of the payload with one signature."""
    value = signer.private_key.sign(encoded(payload_type, payload))
    return {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": payload_type,
        "signatures": [{"keyid": signer.key_id, "sig": base64.b64encode(value).decode()}],
    }


@dataclass(frozen=True)
class Opened:
    """An envelope's payload, which is not checked yet, and its signatures by key id."""

    payload_type: str
    payload: bytes
    signatures: Mapping[str, bytes]

    def check(self, keys: Keys) -> str:
        """Raise ``BadSignature`` unless one of ``keys`` signed; return the key's id."""
        known = [identifier for identifier in self.signatures if identifier in keys]
        if not known:
            raise BadSignature("the signing key is not among the trusted keys")
        message = encoded(self.payload_type, self.payload)
        for identifier in known:
            try:
                public = Ed25519PublicKey.from_public_bytes(keys[identifier])
                public.verify(self.signatures[identifier], message)
            except InvalidSignature:
                continue
            return identifier
        raise BadSignature("the envelope was changed, or another key signed it")


def is_envelope(document: Any) -> bool:
    """Return whether a parsed document is meant as an envelope."""
    return isinstance(document, dict) and "payloadType" in document and "payload" in document


def open_envelope(document: Mapping[str, Any]) -> Opened:
    """Return what an envelope holds; raise ``ValueError`` if it is not in the form of one."""
    payload_type, signatures = document.get("payloadType"), document.get("signatures")
    if not isinstance(payload_type, str) or not isinstance(signatures, list) or not signatures:
        raise ValueError("an envelope has a payloadType and signatures")
    found: dict[str, bytes] = {}
    for one in signatures:
        if not isinstance(one, dict) or not isinstance(one.get("keyid"), str):
            raise ValueError("a signature of an envelope has a keyid")
        found[one["keyid"]] = _bytes(one.get("sig"))
    return Opened(payload_type, _bytes(document.get("payload")), found)


def _bytes(text: Any) -> bytes:
    if not isinstance(text, str):
        raise ValueError("base64 text is missing")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("this is not base64") from None
