"""Signatures, published keys and their rotation."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from service.ledger.audit import canonical, signing
from service.settings import Settings

OLD_SEED = bytes(range(32))
NEW_SEED = bytes(range(100, 132))

DOCUMENT = {"type": "test", "count": 3, "share": 0.25, "words": "schön"}


def test_the_value_signs_the_canonical_document_with_its_header() -> None:
    signer = signing.Signer.from_seed(OLD_SEED)
    signed = signer.sign(DOCUMENT)
    value = base64.b64decode(signed["signature"].pop("value"))
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(signed["signature"]["public_key"]))
    key.verify(value, canonical.encode(signed))
    assert signer.key_id == hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


@pytest.mark.parametrize(
    "change",
    [
        {"count": 4},
        {"added": None},
        {"signature": {}},
        {"signature": None},
        {"signature": {"algorithm": "none"}},
    ],
)
def test_a_changed_document_does_not_verify(change: dict[str, Any]) -> None:
    signed = signing.Signer.from_seed(OLD_SEED).sign(DOCUMENT)
    keys = signing.embedded(signed)
    with pytest.raises(signing.BadSignature):
        signing.check(signed | change, keys)


@pytest.mark.parametrize("member", ["algorithm", "key_id", "public_key", "value"])
def test_a_changed_signature_does_not_verify(member: str) -> None:
    signed = signing.Signer.from_seed(OLD_SEED).sign(DOCUMENT)
    other = signing.Signer.from_seed(NEW_SEED).sign(DOCUMENT)
    keys = {**signing.embedded(signed), **signing.embedded(other)}
    mixed = signed["signature"] | {member: other["signature"][member]}
    if member == "algorithm":
        mixed = mixed | {"algorithm": "HS256"}
    with pytest.raises(signing.BadSignature):
        signing.check(signed | {"signature": mixed}, keys)


def test_a_key_that_is_not_trusted_does_not_count() -> None:
    signed = signing.Signer.from_seed(NEW_SEED).sign(DOCUMENT)
    trusted = signing.embedded(signing.Signer.from_seed(OLD_SEED).sign(DOCUMENT))
    with pytest.raises(signing.BadSignature, match="not among the trusted keys"):
        signing.check(signed, trusted)


def test_after_a_rotation_old_and_new_documents_verify_with_the_published_keys(
    tmp_path: Path,
) -> None:
    before = _settings(tmp_path, OLD_SEED)
    old = signing.Signer.from_settings(before)
    signed_before = old.sign(DOCUMENT)
    after = _settings(tmp_path, NEW_SEED, retired=base64.b64encode(old.public_key).decode())
    signed_after = signing.Signer.from_settings(after).sign(DOCUMENT)

    published = signing.public_keys(after)
    assert [key["status"] for key in published["keys"]] == ["current", "retired"]
    keys = signing.read_keys(canonical.decode(canonical.encode(published)))
    assert signing.check(signed_before, keys) == old.key_id
    assert signing.check(signed_after, keys) != old.key_id


def test_before_it_is_retired_a_key_is_published_once(tmp_path: Path) -> None:
    signer = signing.Signer.from_seed(OLD_SEED)
    own = base64.b64encode(signer.public_key).decode()
    published = signing.public_keys(_settings(tmp_path, OLD_SEED, retired=f"{own}, "))
    assert [key["kid"] for key in published["keys"]] == [signer.key_id]


def test_a_wrong_retired_key_names_its_setting(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="UNLEARN_RETIRED_PUBLIC_KEYS"):
        signing.public_keys(_settings(tmp_path, OLD_SEED, retired="c2hvcnQ="))


def test_published_keys_hold_no_private_key(tmp_path: Path) -> None:
    text = canonical.encode(signing.public_keys(_settings(tmp_path, OLD_SEED)))
    assert b'"d"' not in text
    assert base64.urlsafe_b64encode(OLD_SEED).rstrip(b"=") not in text
    assert "PrivateKey" not in repr(signing.Signer.from_seed(OLD_SEED))


@pytest.mark.parametrize(
    "keys",
    [
        None,
        [],
        {},
        {"keys": []},
        {"keys": ["x"]},
        {"keys": [{"crv": "P-256"}]},
        {"keys": [{"crv": "Ed25519", "x": "AA", "kid": "0"}]},
        {"keys": [{"crv": "Ed25519", "x": base64.b64encode(OLD_SEED).decode(), "kid": "0"}]},
    ],
)
def test_what_is_no_key_set_is_refused(keys: Any) -> None:
    with pytest.raises(ValueError, match=r"key|base64|bytes"):
        signing.read_keys(keys)


def _settings(path: Path, seed: bytes, *, retired: str = "") -> Settings:
    return Settings(
        _env_file=None,
        state_dir=path,
        signing_key=base64.b64encode(seed).decode(),
        retired_public_keys=retired,
    )
