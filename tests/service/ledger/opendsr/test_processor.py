"""The processor's key and certificate: what is taken, and what its signatures prove."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from service.ledger.database import db
from service.ledger.opendsr import processor
from service.ledger.opendsr.processor import BadProcessor, Processor
from service.settings import Settings
from tests import certificates
from tests.certificates import Pair, pair

BODY = b'{"request_status":"pending"}'


@pytest.fixture
def plain(tmp_path: Path) -> Settings:
    return Settings(_env_file=None, state_dir=tmp_path)


def verify(certificate: bytes, signature: str, body: bytes) -> None:
    """Check a signature as a controller does (security guidelines of the specification)."""
    key = x509.load_pem_x509_certificate(certificate).public_key()
    value = base64.b64decode(signature, validate=True)
    if isinstance(key, rsa.RSAPublicKey):
        key.verify(value, body, padding.PKCS1v15(), SHA256())
    else:
        assert isinstance(key, ec.EllipticCurvePublicKey)
        key.verify(value, body, ec.ECDSA(SHA256()))


@pytest.mark.parametrize("key", [certificates.rsa_key, certificates.ec_key])
def test_a_signature_holds_for_its_body_alone(plain: Settings, tmp_path: Path, key: Any) -> None:
    made = pair(key())
    signer = Processor.from_settings(made.settings(plain, tmp_path))
    assert signer is not None
    headers = signer.headers(BODY)
    assert headers["X-OpenDSR-Processor-Domain"] == certificates.DOMAIN
    verify(made.certificate, headers["X-OpenDSR-Signature"], BODY)
    with pytest.raises(InvalidSignature):
        verify(made.certificate, headers["X-OpenDSR-Signature"], BODY + b" ")


def test_without_settings_there_is_no_processor(plain: Settings) -> None:
    assert Processor.from_settings(plain) is None


@pytest.mark.parametrize(
    "missing", ["opendsr_domain", "opendsr_key_file", "opendsr_certificate_file"]
)
def test_half_of_the_settings_is_refused(plain: Settings, tmp_path: Path, missing: str) -> None:
    empty = {missing: "" if missing == "opendsr_domain" else None}
    with pytest.raises(BadProcessor, match="needed together"):
        Processor.from_settings(pair().settings(plain, tmp_path, **empty))


def other_key() -> Pair:
    return Pair(certificates.pem(certificates.ec_key()), pair().certificate)


def small_key() -> Pair:
    return pair(certificates.rsa_key(1024))


def wrong_kind() -> Pair:
    return pair(certificates.ed25519_key())


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (other_key, "is not the key of the first certificate"),
        (small_key, "at least 2048 bits"),
        (wrong_kind, "FIPS 186-4"),
        (lambda: pair(domain="other.example"), "is not for UNLEARN_OPENDSR_DOMAIN"),
        (lambda: Pair(b"nothing", pair().certificate), "no PEM private key"),
        (lambda: Pair(pair().key, b"nothing"), "no PEM certificate"),
    ],
)
def test_what_cannot_sign_for_the_domain_is_refused_without_the_key(
    plain: Settings, tmp_path: Path, make: Any, why: str
) -> None:
    made = make()
    with pytest.raises(BadProcessor, match=why) as refused:
        Processor.from_settings(made.settings(plain, tmp_path))
    assert made.key.decode() not in str(refused.value)


def test_a_self_signed_certificate_is_for_development_alone(
    plain: Settings, tmp_path: Path
) -> None:
    settings = pair(self_signed=True).settings(plain, tmp_path)
    assert Processor.from_settings(settings) is not None
    with pytest.raises(BadProcessor, match="self-signed"):
        Processor.from_settings(settings.model_copy(update={"mode": "production"}))


@pytest.mark.parametrize("days", [(-9, -1), (1, 9)])
def test_a_certificate_out_of_its_time_signs_nothing(
    plain: Settings, tmp_path: Path, days: tuple[float, float]
) -> None:
    settings = pair(days=days).settings(plain, tmp_path)
    with pytest.raises(processor.CertificateExpired):
        processor.require(settings, now=db.now())


def test_a_renewed_certificate_is_used_at_once(plain: Settings, tmp_path: Path) -> None:
    settings = pair(days=(-9, -1)).settings(plain, tmp_path)
    renewed = pair()
    renewed.settings(plain, tmp_path)
    assert processor.require(settings, now=db.now()).certificate == renewed.certificate


def test_a_file_that_is_missing_is_named_by_its_setting(plain: Settings, tmp_path: Path) -> None:
    settings = pair().settings(plain, tmp_path, opendsr_key_file=tmp_path / "none")
    with pytest.raises(BadProcessor, match="UNLEARN_OPENDSR_KEY_FILE cannot be read") as refused:
        Processor.from_settings(settings)
    assert str(tmp_path) not in str(refused.value)
