"""Signatures of webhooks: against the specification's vectors and a foreign library."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from service.ledger.webhooks import signatures
from service.ledger.webhooks.signatures import Scheme

# The vectors of the specification's own libraries.
MESSAGE, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}'
AT = datetime.fromtimestamp(1614265330, UTC)
VECTORS = {
    "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    "whsk_VEVTVFNJR05JTkdLRVlET05PVFVTRVRISVNGT1JBTlk=": (
        "v1a,tQ9V2XOqn7jL/DQenEFpqIugdBVtiMmER5mhSkXBNwM0mkATuDe6KYYUuxqtaiHeYGb7KaaBRdM5WqyeFiL8Ag=="
    ),
}


@pytest.mark.parametrize("secret", VECTORS)
def test_a_signature_is_that_of_the_reference_libraries(secret: str) -> None:
    made = signatures.headers(MESSAGE, BODY, at=AT, secrets=[secret])
    assert made == {
        "webhook-id": MESSAGE,
        "webhook-timestamp": "1614265330",
        "webhook-signature": VECTORS[secret],
    }


def test_the_foreign_library_accepts_either_secret_of_a_rotation_and_no_other() -> None:
    old, new, other = (signatures.new_secret(Scheme.HMAC) for _ in range(3))
    made = signatures.headers("7-abc", BODY, at=datetime.now(UTC), secrets=[new, old])
    for secret in (old, new):
        assert Webhook(secret).verify(BODY, made) == {"test": 2432232314}
    with pytest.raises(WebhookVerificationError, match="No matching signature"):
        Webhook(other).verify(BODY, made)
    with pytest.raises(WebhookVerificationError, match="No matching signature"):
        Webhook(new).verify(BODY + b" ", made)


def test_the_public_key_checks_asymmetric_signatures() -> None:
    secret = signatures.new_secret(Scheme.ED25519)
    shown = signatures.public_key(secret)
    assert shown is not None
    assert shown.startswith("whpk_")
    made = signatures.headers("7-abc", BODY, at=AT, secrets=[secret])
    version, _, value = made["webhook-signature"].partition(",")
    assert version == "v1a"
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(shown.removeprefix("whpk_")))
    key.verify(base64.b64decode(value), b"7-abc.1614265330." + BODY)
    assert signatures.public_key(signatures.new_secret(Scheme.HMAC)) is None


def test_secrets_have_the_length_that_the_specification_asks_for() -> None:
    made = {signatures.new_secret(Scheme.HMAC) for _ in range(20)}
    assert len(made) == 20
    assert all(24 <= len(base64.b64decode(one.removeprefix("whsec_"))) <= 64 for one in made)
