"""DSSE envelopes of in-toto statements, checked by the libraries of others."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf import json_format
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey
from sqlalchemy.orm import Session

from service import audit_file
from service.ledger.audit import canonical, dsse, signing, statements
from service.ledger.reports import report
from tests import histories
from tests.factories import DIGESTER, NOW
from tests.histories import SIGNER

KEYS = {SIGNER.key_id: SIGNER.public_key}
STRANGER = signing.Signer.from_seed(bytes(range(50, 82)))


@pytest.fixture
def made(session: Session) -> dict[str, Any]:
    """A report."""
    history = histories.forgotten(session)
    return report.report(session, history.version, digester=DIGESTER, signer=SIGNER, now=NOW)


def _their_key(signer: signing.Signer) -> SSlibKey:
    return SSlibKey(signer.key_id, "ed25519", "ed25519", {"public": signer.public_key.hex()})


def test_the_encoding_is_that_of_the_specification() -> None:
    # The example of the protocol's document.
    assert dsse.encoded("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_securesystemslib_accepts_the_envelope_under_our_key_alone(made: dict[str, Any]) -> None:
    envelope = Envelope.from_dict(json.loads(json.dumps(statements.envelope(made, signer=SIGNER))))
    assert envelope.verify([_their_key(SIGNER)], 1)
    with pytest.raises(VerificationError):
        envelope.verify([_their_key(STRANGER)], 1)
    envelope.payload += b" "
    with pytest.raises(VerificationError):
        envelope.verify([_their_key(SIGNER)], 1)


def test_in_toto_reads_the_statement(made: dict[str, Any]) -> None:
    envelope = statements.envelope(made, signer=SIGNER)
    content = base64.b64decode(envelope["payload"])
    Statement.copy_from_pb(json_format.Parse(content, statement_pb2.Statement())).validate()
    payload = json.loads(content)
    assert payload["predicateType"] == statements.PREDICATE
    assert payload["predicate"] == made
    [subject] = payload["subject"]
    assert subject["digest"] == {"sha256": made["done"]["digest_after"]}


def test_the_offline_check_reads_envelopes(made: dict[str, Any]) -> None:
    content = canonical.encode(statements.envelope(made, signer=SIGNER))
    for keys in (KEYS, None):
        told = audit_file.verify_bytes(content, keys=keys).lines()
        assert told[-1] == "The file is sound."
        assert "in-toto statement holds" in told[0]
    other = {STRANGER.key_id: STRANGER.public_key}
    assert not audit_file.verify_bytes(content, keys=other).ok


Change = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(
    ("change", "because"),
    [
        (lambda of: of.update(_type="https://example.org/"), "not an in-toto statement"),
        (lambda of: of.update(predicateType="https://example.org/"), "not unlearning/v1"),
        (lambda of: of.update(predicate=3), "no report"),
        (lambda of: of["subject"][0].update(name="other"), "subject"),
        (lambda of: of["subject"].append(of["subject"][0]), "subject"),
        (lambda of: of["predicate"].pop("done"), "subject"),
    ],
)
def test_a_statement_about_something_else_is_refused_even_if_signed(
    made: dict[str, Any], change: Change, because: str
) -> None:
    statement = copy.deepcopy(statements.of_report(made))
    change(statement)
    payload = canonical.encode(statement)
    envelope = dsse.sign(payload, payload_type=dsse.IN_TOTO, signer=SIGNER)
    told = audit_file.verify_bytes(canonical.encode(envelope), keys=KEYS).lines()
    assert because in told[0]
    assert "NOT sound" in told[-1]


@pytest.mark.parametrize(
    "change",
    [
        lambda of: of.update(payload=3),
        lambda of: of.update(payload="!"),
        lambda of: of.update(payloadType=None),
        lambda of: of.update(payloadType="text/plain"),
        lambda of: of.update(signatures=[]),
        lambda of: of.update(signatures=[{"sig": "AAAA"}]),
        lambda of: of["signatures"][0].update(sig="AAAA"),
        lambda of: of["signatures"][0].update(keyid="other"),
    ],
)
def test_what_is_no_envelope_is_an_answer_and_no_crash(
    made: dict[str, Any], change: Change
) -> None:
    envelope = statements.envelope(made, signer=SIGNER)
    change(envelope)
    assert not audit_file.verify_bytes(canonical.encode(envelope), keys=KEYS).ok


@pytest.mark.parametrize(
    "change",
    [
        lambda of: of.update(payloadType=None),
        lambda of: of.pop("payloadType"),
        lambda of: of.update(signatures=None),
        lambda of: of.update(signatures={"keyid": "AAAA"}),
        lambda of: of.update(signatures=[]),
    ],
)
def test_an_envelope_without_a_type_or_a_list_of_signatures_is_not_opened(change: Change) -> None:
    envelope = dsse.sign(b"{}", payload_type=dsse.IN_TOTO, signer=SIGNER)
    assert dsse.open_envelope(envelope).payload == b"{}"
    change(envelope)
    with pytest.raises(ValueError, match="payloadType and signatures"):
        dsse.open_envelope(envelope)
