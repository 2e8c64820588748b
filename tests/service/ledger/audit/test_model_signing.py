"""Signatures over checkpoints, verified by the command ``model_signing`` of others."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from service.ledger.audit import dsse
from service.ledger.audit.model_signing import ModelSigner
from service.ledger.database.states import VersionStatus
from service.settings import Settings
from tests import factories
from tests.service.api import callers
from tests.service.api.callers import assert_problem

SIGNER = ModelSigner.from_seed(bytes(range(32)))
WEIGHTS = b"the bytes of a checkpoint"


def _verified(folder: Path, weights: bytes, signer: ModelSigner, name: str = "who-3") -> str:
    """Run the command of others; return "" if it accepts the signature, else what it says."""
    made = SIGNER.sign(name="who-3", digest=hashlib.sha256(WEIGHTS).hexdigest())
    model = folder / f"{name}.safetensors"
    model.write_bytes(weights)
    (folder / "bundle.json").write_text(json.dumps(made))
    (folder / "key.pem").write_bytes(signer.public_key)
    program = str(Path(sys.executable).with_name("model_signing"))
    options = ["--signature", str(folder / "bundle.json"), "--public_key", str(folder / "key.pem")]
    run = subprocess.run(
        [program, "verify", "key", str(model), *options],
        capture_output=True,
        text=True,
        timeout=120,
    )
    return "" if run.returncode == 0 else run.stderr + run.stdout or "refused"


@pytest.mark.seconds
@pytest.mark.parametrize("name", ["who-3", "renamed"])
def test_the_command_of_others_accepts_the_file_whatever_it_is_called(
    tmp_path: Path, name: str
) -> None:
    assert _verified(tmp_path, WEIGHTS, SIGNER, name) == ""


@pytest.mark.seconds
def test_it_refuses_other_weights_and_another_key(tmp_path: Path) -> None:
    assert "mismatch" in _verified(tmp_path, WEIGHTS + b"!", SIGNER)
    assert "mismatch" in _verified(tmp_path, WEIGHTS, ModelSigner.from_seed(bytes(32)))


def test_the_key_follows_from_the_signing_key_alone() -> None:
    assert ModelSigner.from_seed(bytes(range(32))).public_key == SIGNER.public_key
    assert ModelSigner.from_seed(bytes(32)).public_key != SIGNER.public_key
    assert SIGNER.private_key.curve.name == "secp256r1"
    assert repr(SIGNER) == "ModelSigner()"


def test_a_version_is_signed_over_http_if_its_weights_are_handed_out(settings: Settings) -> None:
    with callers.application(settings) as app:
        with app.state.sessions() as session:
            owner = factories.model(session, factories.dataset(session), name="who")
            factories.version(session, owner, digest=hashlib.sha256(WEIGHTS).hexdigest())
            factories.version(session, owner, status=VersionStatus.RETIRED, production=False)
            session.commit()
        reader = callers.client(app, "models:read")
        path = "/v1/models/who/versions/{}/checkpoint/signature"
        bundle = reader.get(path.format(1)).json()
        payload = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
        [file] = payload["predicate"]["resources"]
        assert file["digest"] == hashlib.sha256(WEIGHTS).hexdigest()
        pem = reader.get("/.well-known/unlearning-model-signing.pem").content
        public = serialization.load_pem_public_key(pem)
        assert isinstance(public, ec.EllipticCurvePublicKey)
        public.verify(
            base64.b64decode(bundle["dsseEnvelope"]["signatures"][0]["sig"]),
            dsse.encoded(dsse.IN_TOTO, base64.b64decode(bundle["dsseEnvelope"]["payload"])),
            ec.ECDSA(hashes.SHA256()),
        )
        refused = reader.get(path.format(2))
        weights = reader.get(path.format(2).removesuffix("/signature"))
        assert refused.status_code == weights.status_code
        assert refused.status_code >= 400
        assert_problem(reader.get(path.format(9)), 404)
        assert_problem(callers.client(app, "audit:read").get(path.format(1)), 403, "models:read")
