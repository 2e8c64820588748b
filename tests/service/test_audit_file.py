"""The offline check of saved reports: by whose key it trusts what, and what it says."""

from __future__ import annotations

import base64
import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service import audit_file
from service.ledger.audit import canonical, chain, signing
from service.ledger.reports import report
from service.settings import Settings
from tests.histories import SIGNER
from tests.service.saved_reports import STRANGER, save


def test_a_saved_report_is_sound_with_the_published_keys(
    sound: dict[str, Any], tmp_path: Path
) -> None:
    seed = base64.b64encode(bytes(range(32))).decode()
    published = signing.public_keys(Settings(_env_file=None, signing_key=seed))
    keys = save(tmp_path / "unlearning-keys.json", published)
    found = audit_file.verify_file(save(tmp_path / "report.json", sound), keys=keys)
    assert found.ok
    assert {finding.level for finding in found.found} == {"ok"}


def test_a_pinned_public_key_does_as_well(sound: dict[str, Any], tmp_path: Path) -> None:
    pinned = tmp_path / "key.txt"
    pinned.write_text(base64.b64encode(SIGNER.public_key).decode() + "\n")
    assert audit_file.verify_file(save(tmp_path / "report.json", sound), keys=pinned).ok


def test_without_a_key_it_says_what_the_embedded_one_is_worth(
    sound: dict[str, Any], tmp_path: Path
) -> None:
    found = audit_file.verify_file(save(tmp_path / "report.json", sound))
    assert found.ok
    assert any("anyone could have made it" in line for line in found.lines())


def test_a_report_of_a_stranger_is_whole_but_not_trusted(sound: dict[str, Any]) -> None:
    document = copy.deepcopy(sound)
    document["chain"]["head"] = STRANGER.sign(document["chain"]["head"])
    forged = canonical.encode(STRANGER.sign(document))
    assert audit_file.verify_bytes(forged).ok
    found = audit_file.verify_bytes(forged, keys=signing.pinned_key(_key(SIGNER)))
    assert not found.ok
    assert "not among the trusted keys" in " ".join(found.lines())


def test_a_reformatted_file_is_checked_in_its_canonical_form(
    sound: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "pretty.json"
    path.write_text(json.dumps(sound, indent=2))
    found = audit_file.verify_file(path)
    assert found.ok
    assert any("reformatted" in line for line in found.lines())


def test_a_report_under_the_development_key_says_what_that_signature_is_worth(
    sound: dict[str, Any], tmp_path: Path
) -> None:
    settings = Settings(_env_file=None, state_dir=tmp_path)
    everybodys = signing.Signer.from_settings(settings)
    document = copy.deepcopy(sound)
    document["chain"]["head"] = everybodys.sign(document["chain"]["head"])
    document["purges"][0]["receipt"] = everybodys.sign(document["purges"][0]["receipt"])
    report = save(tmp_path / "report.json", everybodys.sign(document))
    keys = save(tmp_path / "keys.json", signing.public_keys(settings))
    for found in (audit_file.verify_file(report), audit_file.verify_file(report, keys=keys)):
        assert found.ok
        assert "built-in development key" in " ".join(found.lines())
        assert found.lines()[-1] != "The file is sound."


#: Encodings of the eight points of low order, and of two that are no point in canonical form.
LOW_ORDER = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


def test_a_signature_that_needs_no_private_key_is_refused(
    sound: dict[str, Any], tmp_path: Path
) -> None:
    # Under the neutral element every document has the signature (neutral element, 0).
    neutral = bytes([1] + [0] * 31)
    text, value = base64.b64encode(neutral).decode(), neutral + bytes(32)
    for document in ({"type": "chain-head", "seq": 1}, {"type": "chain-head", "seq": 2}):
        header = {"algorithm": "Ed25519", "key_id": signing.key_id(neutral), "public_key": text}
        signed = {**document, "signature": header | {"value": base64.b64encode(value).decode()}}
        found = audit_file.verify_bytes(canonical.encode(signed))
        assert not found.ok
        assert "low order" in " ".join(found.lines())


@pytest.mark.parametrize("encoded", LOW_ORDER)
def test_a_key_under_which_anybody_can_sign_is_trusted_nowhere(
    encoded: str, sound: dict[str, Any], tmp_path: Path
) -> None:
    key = bytes.fromhex(encoded)
    text = base64.b64encode(key).decode()
    pinned = tmp_path / "key.txt"
    pinned.write_text(text)
    x = base64.urlsafe_b64encode(key).rstrip(b"=").decode()
    listed = {"kty": "OKP", "crv": "Ed25519", "kid": signing.key_id(key), "x": x}
    published = save(tmp_path / "keys.json", {"keys": [listed]})
    report = save(tmp_path / "report.json", sound)
    for keys in (pinned, published):
        found = audit_file.verify_file(report, keys=keys)
        assert not found.ok
        assert "low order" in found.lines()[0] or "canonical" in found.lines()[0]
    with pytest.raises(ValueError, match="UNLEARN_RETIRED_PUBLIC_KEYS"):
        signing.public_keys(Settings(_env_file=None, retired_public_keys=text))


def test_a_key_set_that_lists_an_id_twice_is_refused(sound: dict[str, Any], tmp_path: Path) -> None:
    seed = base64.b64encode(bytes(range(32))).decode()
    published = signing.public_keys(Settings(_env_file=None, signing_key=seed))
    published["keys"] *= 2
    keys = save(tmp_path / "keys.json", published)
    found = audit_file.verify_file(save(tmp_path / "report.json", sound), keys=keys)
    assert "listed twice" in found.lines()[0]
    assert not found.ok


def test_a_receipt_under_an_older_key_is_pointed_out_where_no_key_is_trusted(
    sound: dict[str, Any],
) -> None:
    document = copy.deepcopy(sound)
    document["purges"][0]["receipt"] = STRANGER.sign(document["purges"][0]["receipt"])
    found = audit_file.verify_bytes(canonical.encode(SIGNER.sign(document)))
    assert found.ok
    assert f"another key, {STRANGER.key_id}" in " ".join(found.lines())


@pytest.mark.parametrize("kind", ["chain-head", "purge-receipt"])
def test_a_signed_head_or_receipt_is_checked_by_its_signature(kind: str) -> None:
    signed = SIGNER.sign({"type": kind, "seq": 3})
    assert audit_file.verify_bytes(canonical.encode(signed)).ok
    assert not audit_file.verify_bytes(canonical.encode(signed | {"seq": 4})).ok


def test_nothing_but_the_file_is_needed() -> None:
    program = (
        "import sys, service.audit_file\n"
        "loaded = {'sqlalchemy', 'torch', 'celery', 'fastapi', 'psycopg'} & set(sys.modules)\n"
        "sys.exit(str(loaded) if loaded else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_audit_calls_a_head_is_what_the_reader_knows() -> None:
    assert (chain.CHECKPOINT, report.TYPE) == (audit_file.CHAIN_HEAD, "audit-report")


def _key(signer: signing.Signer) -> str:
    return base64.b64encode(signer.public_key).decode()
