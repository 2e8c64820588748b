"""Ed25519 signatures under documents, and the public keys that check them.

A signed document carries ``signature``: algorithm, key id, public key and value. The value signs
the canonical JSON of the whole document, ``signature`` without ``value`` included.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from service.ledger.audit import canonical, notes
from service.settings import DEVELOPMENT_SIGNING_KEY, Settings

ALGORITHM = "Ed25519"

#: Order of the field of the curve (RFC 8032, section 5.1).
_P = 2**255 - 19

#: y coordinates of the eight points whose order divides 8. For such a public key there are
#: signatures that are valid for every document.
_LOW_ORDER = frozenset(
    {
        0,
        1,
        _P - 1,
        2707385501144840649318225287225658788936804267575313519463743609750303402022,
        _P - 2707385501144840649318225287225658788936804267575313519463743609750303402022,
    }
)

#: Public keys by their id.
Keys = Mapping[str, bytes]


class BadSignature(ValueError):
    """The signature under a document is not valid; the message says why."""


@dataclass(frozen=True)
class Signer:
    """The current private key."""

    private_key: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """Return the key of a seed of 32 random bytes."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return the key of ``UNLEARN_SIGNING_KEY``."""
        return cls.from_seed(settings.signing_seed)

    @property
    def public_key(self) -> bytes:
        """The 32 bytes by which its signatures are checked."""
        return self.private_key.public_key().public_bytes_raw()

    @property
    def key_id(self) -> str:
        """The id of the public key."""
        return key_id(self.public_key)

    def sign(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Return the document with its signature; every value in a form that JSON can hold."""
        plain = canonical.plain({k: v for k, v in document.items() if k != "signature"})
        header = {
            "algorithm": ALGORITHM,
            "key_id": self.key_id,
            "public_key": _to_text(self.public_key),
        }
        value = self.private_key.sign(canonical.encode(plain | {"signature": header}))
        return {**plain, "signature": header | {"value": _to_text(value)}}


def check(document: Mapping[str, Any], keys: Keys) -> str:
    """Raise ``BadSignature`` unless one of ``keys`` signed the document; return the key's id."""
    signature = document.get("signature")
    if not isinstance(signature, dict):
        raise BadSignature("the document is not signed")
    if signature.get("algorithm") != ALGORITHM:
        raise BadSignature(f"the signature is not {ALGORITHM}")
    identifier = signature.get("key_id")
    if not isinstance(identifier, str) or identifier not in keys:
        raise BadSignature("the signing key is not among the trusted keys")
    if signature.get("public_key") != _to_text(keys[identifier]):
        raise BadSignature("the public key in the document is not the one of its key id")
    header = {name: value for name, value in signature.items() if name != "value"}
    try:
        message = canonical.encode({**document, "signature": header})
        Ed25519PublicKey.from_public_bytes(keys[identifier]).verify(
            _to_bytes(signature.get("value"), length=64), message
        )
    except InvalidSignature:
        raise BadSignature(
            "the document was changed, or another key signed it, after all"
        ) from None
    except ValueError as error:
        raise BadSignature(f"the signature cannot be read: {error}") from None
    return identifier


def embedded(document: Mapping[str, Any]) -> Keys:
    """Return the public key in the document: it proves integrity, not who signed."""
    signature = document.get("signature")
    if not isinstance(signature, dict):
        raise BadSignature("the document is not signed")
    try:
        public_key = read_public_key(signature.get("public_key"))
    except ValueError as error:
        raise BadSignature(f"its public key cannot be used: {error}") from None
    return {key_id(public_key): public_key}


def public_keys(settings: Settings) -> dict[str, Any]:
    """Return ``/.well-known/unlearning-keys.json``, a JSON Web Key set (RFC 8037)."""
    current = Signer.from_settings(settings).public_key
    retired = [key for key in _retired(settings) if key != current]
    origin = settings.log_origin
    return {
        "keys": [
            _jwk(current, "current", origin),
            *(_jwk(key, "retired", origin) for key in retired),
        ]
    }


def read_keys(document: Any) -> Keys:
    """Return the keys of a saved ``unlearning-keys.json``; raise ``ValueError`` if it is none."""
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not entries:
        raise ValueError("this is not a key set: it has no list named keys")
    keys: dict[str, bytes] = {}
    for identifier, public_key in map(_read_jwk, entries):
        if identifier in keys:
            raise ValueError(f"the key id {identifier} is listed twice")
        keys[identifier] = public_key
    return keys


def pinned_key(text: str) -> Keys:
    """Return one public key given as base64."""
    public_key = read_public_key(text.strip())
    return {key_id(public_key): public_key}


def read_public_key(text: Any) -> bytes:
    """Return the 32 bytes of a public key in base64.

    Raise ``ValueError`` if it is none, or has low order, so that anybody can sign under it.
    """
    public_key = _to_bytes(text, length=32)
    y = int.from_bytes(public_key, "little") & (2**255 - 1)
    if y >= _P:
        raise ValueError("this is not an Ed25519 public key in canonical form")
    if y in _LOW_ORDER:
        raise ValueError("this public key has low order: anybody can sign under it")
    return public_key


def development_key_id() -> str:
    """Return the id of the built-in development key, which is public."""
    return Signer.from_seed(base64.b64decode(DEVELOPMENT_SIGNING_KEY)).key_id


def key_id(public_key: bytes) -> str:
    """Return the first 16 hex digits of the public key's SHA-256."""
    return hashlib.sha256(public_key).hexdigest()[:16]


def _retired(settings: Settings) -> list[bytes]:
    texts = [text.strip() for text in settings.retired_public_keys.split(",") if text.strip()]
    try:
        return [read_public_key(text) for text in texts]
    except ValueError as error:
        raise ValueError(f"UNLEARN_RETIRED_PUBLIC_KEYS: {error}") from None


def _jwk(public_key: bytes, status: str, origin: str) -> dict[str, Any]:
    return {
        "kty": "OKP",
        "crv": ALGORITHM,
        "use": "sig",
        "alg": "EdDSA",
        "kid": key_id(public_key),
        "x": base64.urlsafe_b64encode(public_key).rstrip(b"=").decode(),
        "status": status,
        "verifier_key": notes.verifier_key(origin, public_key),
    }


def _read_jwk(entry: Any) -> tuple[str, bytes]:
    if not isinstance(entry, dict) or (entry.get("kty"), entry.get("crv")) != ("OKP", ALGORITHM):
        raise ValueError(f"every key must be of the kind {ALGORITHM}")
    text = entry.get("x")
    if not isinstance(text, str):
        raise ValueError("a key has no x")
    public_key = read_public_key(text.replace("-", "+").replace("_", "/") + "=")
    if entry.get("kid") != key_id(public_key):
        raise ValueError("the id of a key is not that of its public key")
    return key_id(public_key), public_key


def _to_text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _to_bytes(text: Any, *, length: int) -> bytes:
    if not isinstance(text, str):
        raise ValueError("base64 text is missing")
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("this is not base64") from None
    if _to_text(value) != text:
        raise ValueError("this is not base64 in its canonical form")
    if len(value) != length:
        raise ValueError(f"{length} bytes are needed, not {len(value)}")
    return value
