"""A POST over TLS goes to the checked address and trusts only a certificate of the name."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from service.ledger.webhooks.destinations import Destination
from tests.workers import receiver
from tests.workers.receiver import Receiver
from workers.jobs import posting

NAME = "hooks.invalid"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for ``NAME`` and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    made = (
        x509.CertificateBuilder()
        .subject_name(issuer)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


@pytest.fixture
def to(certificate: Path) -> Iterator[Receiver]:
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(certificate)
    with receiver.running(served) as made:
        yield made


def send(to: Receiver, host: str, trusted: ssl.SSLContext | None) -> posting.Answer:
    return posting.post(
        Destination("https", host, to.port, "/in"),
        b'{"a":1}',
        {"webhook-id": "1"},
        addresses=["127.0.0.1"],
        seconds=60,
        trusted=trusted,
    )


def test_the_checked_address_is_called_and_must_prove_the_name(
    to: Receiver, certificate: Path
) -> None:
    trusted = ssl.create_default_context(cafile=str(certificate))
    assert send(to, NAME, trusted).status == 204
    assert to.received[0].headers["host"] == f"{NAME}:{to.port}"
    for host in ("other.invalid", "127.0.0.1"):
        with pytest.raises(posting.NotPosted, match="certificate is not valid for the host"):
            send(to, host, trusted)
    assert len(to.received) == 1


def test_a_certificate_that_nobody_trusted_has_signed_is_refused(to: Receiver) -> None:
    with pytest.raises(posting.NotPosted, match="nobody trusted has signed it"):
        send(to, NAME, None)
    assert to.received == []


def test_an_answer_in_plain_text_is_not_taken_for_tls(certificate: Path) -> None:
    with receiver.running() as plain, pytest.raises(posting.NotPosted, match="TLS"):
        send(plain, NAME, ssl.create_default_context(cafile=str(certificate)))


def test_the_next_address_is_tried_when_one_accepts_no_connection() -> None:
    with receiver.running() as to:
        answer = posting.post(
            Destination("http", NAME, to.port, "/"),
            b"{}",
            {},
            addresses=["127.0.0.9", "127.0.0.1"],
            seconds=60,
        )
    assert answer.status == 204
