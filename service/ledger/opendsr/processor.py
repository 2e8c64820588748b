"""The processor's domain, key and certificate, by which answers and callbacks are signed.

The specification wants signatures after FIPS 186-4 by the key of an X.509 certificate for the
domain; the Ed25519 key of audit reports is not one of these. Taken are RSA from 2,048 bits on
(PKCS #1 v1.5) and ECDSA on P-256, P-384 and P-521, both over SHA-256.
"""

from __future__ import annotations

import base64
import functools
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from service.errors import NotFound, Unavailable
from service.settings import Settings

DOMAIN_HEADER, SIGNATURE_HEADER = "X-OpenDSR-Processor-Domain", "X-OpenDSR-Signature"

MINIMUM_RSA_BITS = 2048
_FORM = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


class BadProcessor(ValueError):
    """Domain, key and certificate do not go together; the message names the setting."""


class NotConfigured(NotFound):
    """This service takes no OpenDSR requests."""

    code = "opendsr-not-configured"


class CertificateExpired(Unavailable):
    """Signatures by the certificate are not accepted any more, or not yet."""

    code = "opendsr-certificate-expired"


@dataclass(frozen=True)
class Processor:
    """Signs as the processor of a domain."""

    domain: str
    key: PrivateKey = field(repr=False)
    #: PEM, the certificate of the key first.
    certificate: bytes = field(repr=False)
    valid_from: datetime
    valid_until: datetime

    @classmethod
    def from_settings(cls, settings: Settings) -> Processor | None:
        """Return the processor of the settings, reading its files again; None if there is none.

        Raise ``BadProcessor``. A renewed certificate is used without a restart.
        """
        paths = (settings.opendsr_key_file, settings.opendsr_certificate_file)
        given = [bool(settings.opendsr_domain), *(path is not None for path in paths)]
        if not any(given):
            return None
        if not all(given) or paths[0] is None or paths[1] is None:
            raise BadProcessor(
                "UNLEARN_OPENDSR_DOMAIN, UNLEARN_OPENDSR_KEY_FILE and "
                "UNLEARN_OPENDSR_CERTIFICATE_FILE are needed together; set all three or none"
            )
        key = _read(paths[0], "UNLEARN_OPENDSR_KEY_FILE")
        certificate = _read(paths[1], "UNLEARN_OPENDSR_CERTIFICATE_FILE")
        strict = settings.mode == "production"
        return _made(settings.opendsr_domain.lower(), key, certificate, strict)

    def require_valid(self, now: datetime) -> None:
        """Raise ``CertificateExpired`` if signatures made now are worth nothing."""
        if not self.is_valid(now):
            raise CertificateExpired(
                f"the certificate of {self.domain} is valid from {self.valid_from:%Y-%m-%d %H:%M} "
                f"to {self.valid_until:%Y-%m-%d %H:%M} UTC; an operator replaces the file of "
                "UNLEARN_OPENDSR_CERTIFICATE_FILE",
                retry_after_seconds=3600,
            )

    def is_valid(self, now: datetime) -> bool:
        """Return whether the certificate is in force."""
        return self.valid_from <= now < self.valid_until

    def headers(self, body: bytes) -> dict[str, str]:
        """Return the headers that say who signed exactly these bytes."""
        return {DOMAIN_HEADER: self.domain, SIGNATURE_HEADER: self.sign(body)}

    def sign(self, body: bytes) -> str:
        """Return the signature of the body's SHA-256, in base64."""
        if isinstance(self.key, rsa.RSAPrivateKey):
            value = self.key.sign(body, padding.PKCS1v15(), SHA256())
        else:
            value = self.key.sign(body, ec.ECDSA(SHA256()))
        return base64.b64encode(value).decode()


def require(settings: Settings, *, now: datetime) -> Processor:
    """Return the processor, able to sign now; raise ``NotConfigured`` or ``CertificateExpired``."""
    try:
        found = Processor.from_settings(settings)
    except BadProcessor as error:
        raise Unavailable(f"OpenDSR answers cannot be signed: {error}") from None
    if found is None:
        raise NotConfigured(
            "this service takes no OpenDSR requests; an operator sets UNLEARN_OPENDSR_DOMAIN, a "
            "key and a certificate for it, or ask with POST /v1/deletion-requests"
        )
    found.require_valid(now)
    return found


def _read(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadProcessor(f"{name} cannot be read ({error.strerror}); correct it") from None


@functools.lru_cache(maxsize=4)
def _made(domain: str, key_pem: bytes, certificates: bytes, strict: bool) -> Processor:
    key = _key(key_pem)
    try:
        certificate = x509.load_pem_x509_certificates(certificates)[0]
    except (ValueError, IndexError):
        raise BadProcessor("UNLEARN_OPENDSR_CERTIFICATE_FILE holds no PEM certificate") from None
    if certificate.public_key().public_bytes(*_FORM) != key.public_key().public_bytes(*_FORM):
        raise BadProcessor(
            "UNLEARN_OPENDSR_KEY_FILE is not the key of the first certificate in "
            "UNLEARN_OPENDSR_CERTIFICATE_FILE; give the pair that belongs together"
        )
    if domain not in _names(certificate):
        raise BadProcessor(
            "the first certificate in UNLEARN_OPENDSR_CERTIFICATE_FILE is not for "
            "UNLEARN_OPENDSR_DOMAIN: its subject alternative names lack it"
        )
    if strict and certificate.issuer == certificate.subject:
        raise BadProcessor(
            "UNLEARN_OPENDSR_CERTIFICATE_FILE is self-signed, which the specification forbids; "
            "have a certificate authority issue it (development mode takes it)"
        )
    return Processor(
        domain,
        key,
        certificates,
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
    )


def _key(pem: bytes) -> PrivateKey:
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        raise BadProcessor(
            "UNLEARN_OPENDSR_KEY_FILE holds no PEM private key without a passphrase"
        ) from None
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= MINIMUM_RSA_BITS:
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, _CURVES):
        return key
    raise BadProcessor(
        f"UNLEARN_OPENDSR_KEY_FILE must hold an RSA key of at least {MINIMUM_RSA_BITS} bits or an "
        "EC key on P-256, P-384 or P-521; the specification wants a signature of FIPS 186-4"
    )


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return [name.lower() for name in found.value.get_values_for_type(x509.DNSName)]
