"""Signatures over checkpoints in the OpenSSF model-signing format.

Model Signing specification v1.0, key mode: a Sigstore bundle with a DSSE envelope of an in-toto
statement, whose predicate lists the files of the model with their SHA-256. A version has a single
file, named ``.``: the path that is verified is that file, whatever it is called.

The key is ECDSA P-256, as the format has no Ed25519. It is derived from the seed of the signing
key, so that there is one secret to keep and to change.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from typing import Any, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from service.ledger.audit import canonical, dsse, statements
from service.settings import Settings

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PREDICATE = "https://model_signing/signature/v1.0"

#: Order of the group of P-256 (SEC 2, section 2.4.2).
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
#: Twice as long as the order, so that the remainder is as good as uniform.
_SEED_BYTES = 64
_PURPOSE = b"unlearn: ECDSA P-256 key for model signing, version 1"


@dataclass(frozen=True)
class ModelSigner:
    """The private key for checkpoints."""

    private_key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """Return the key that belongs to the seed of the signing key (32 bytes)."""
        derived = HKDF(hashes.SHA256(), _SEED_BYTES, salt=None, info=_PURPOSE).derive(seed)
        scalar = int.from_bytes(derived, "big") % (_ORDER - 1) + 1
        return cls(ec.derive_private_key(scalar, ec.SECP256R1()))

    @property
    def public_key(self) -> bytes:
        """The public key as PEM, by which its signatures are verified."""
        return _pem(self.private_key.public_key())

    def sign(self, *, name: str, digest: str) -> dict[str, Any]:
        """Return the bundle over a checkpoint with this SHA-256 (64 hex digits)."""
        payload = canonical.encode(_statement(name, digest))
        value = self.private_key.sign(
            dsse.encoded(dsse.IN_TOTO, payload), ec.ECDSA(hashes.SHA256())
        )
        return {
            "mediaType": BUNDLE,
            "verificationMaterial": {
                "publicKey": {"hint": key_id(self.public_key)},
                "tlogEntries": [],
            },
            "dsseEnvelope": {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": dsse.IN_TOTO,
                "signatures": [{"sig": base64.b64encode(value).decode(), "keyid": ""}],
            },
        }


def published(settings: Settings) -> dict[str, bytes]:
    """Return the public keys as PEM by their ids: the key in force, then the retired ones.

    Raise ``ValueError`` if a retired one is no ECDSA P-256 key.
    """
    current = ModelSigner.from_seed(settings.signing_seed).public_key
    texts = settings.retired_model_signing_keys.split(",")
    retired = [_read(text.strip()) for text in texts if text.strip()]
    return {key_id(one): one for one in (current, *retired)}


def key_id(public_key: bytes) -> str:
    """Return the SHA-256 of a public key's PEM: the ``hint`` of bundles that its key signed."""
    return hashlib.sha256(public_key).hexdigest()


def _pem(public_key: ec.EllipticCurvePublicKey) -> bytes:
    return public_key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _read(text: str) -> bytes:
    """Return as PEM the public key whose PEM has this text between its first and last line."""
    try:
        key = serialization.load_der_public_key(base64.b64decode(text, validate=True))
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != ec.SECP256R1.name:
        raise ValueError(
            "UNLEARN_RETIRED_MODEL_SIGNING_KEYS must be ECDSA P-256 public keys: each the text "
            "between the first and the last line of its PEM file, in one line"
        )
    return _pem(key)


def _statement(name: str, digest: str) -> dict[str, Any]:
    """Return the manifest of a single file; the subject's digest is that over all its digests."""
    whole = hashlib.sha256(bytes.fromhex(digest)).hexdigest()
    return {
        "_type": statements.STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": whole}}],
        "predicateType": PREDICATE,
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False},
            "resources": [{"name": ".", "algorithm": "sha256", "digest": digest}],
        },
    }
