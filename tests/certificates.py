"""Keys and certificates of a processor, made anew for each run of the tests."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from service.settings import Settings

DOMAIN = "opendsr.processor.example"


@dataclass(frozen=True)
class Pair:
    """A key and its certificate, in PEM."""

    key: bytes
    certificate: bytes

    def settings(self, settings: Settings, directory: Path, **more: Any) -> Settings:
        """The settings with this pair in files of the directory."""
        key, certificate = directory / "opendsr.key", directory / "opendsr.pem"
        key.write_bytes(self.key)
        certificate.write_bytes(self.certificate)
        named = {
            "opendsr_domain": DOMAIN,
            "opendsr_key_file": key,
            "opendsr_certificate_file": certificate,
        }
        return settings.model_copy(update={**named, **more})


@cache
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


@cache
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@cache
def authority_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def pair(
    key: Any = None,
    *,
    domain: str = DOMAIN,
    days: tuple[float, float] = (-1, 90),
    self_signed: bool = False,
) -> Pair:
    """A key with a certificate for the domain, valid from and to so many days from now."""
    key = key or rsa_key()
    owner = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, domain)])
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(owner)
        .issuer_name(owner if self_signed else authority)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(domain)]), critical=False)
        .sign(key if self_signed else authority_key(), SHA256())
    )
    return Pair(pem(key), certificate.public_bytes(Encoding.PEM))


def pem(key: Any) -> bytes:
    found: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return found


def ed25519_key() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()
