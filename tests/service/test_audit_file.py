"""The offline check of saved reports: what it finds, and that no file makes it stumble."""

from __future__ import annotations

import base64
import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from service import audit_file
from service.ledger.audit import canonical, chain, hash_chain, signing
from service.ledger.database import db, schema
from service.ledger.database.states import VersionStatus
from service.ledger.reports import report
from service.settings import Settings
from tests import histories
from tests.factories import DIGESTER, NOW
from tests.histories import SIGNER

STRANGER = signing.Signer.from_seed(bytes(range(50, 82)))

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A report whose version has a successor's purge receipt in it."""
    engine = db.engine(f"sqlite:///{tmp_path_factory.mktemp('report')}/ledger.db")
    schema.upgrade(engine)
    with db.session_factory(engine)() as session:
        history = histories.forgotten(session)
        history.anchor.status = VersionStatus.PURGED
        subject = f"version:{history.model.name}/1"
        receipt = SIGNER.sign({"type": "purge-receipt", "version": subject, "destroyed": []})
        histories.say(session, "version:purged", subject, {"receipt": receipt})
        session.commit()
        made = report.report(session, history.version, digester=DIGESTER, signer=SIGNER, now=NOW)
    engine.dispose()
    return made


def test_a_saved_report_is_sound_with_the_published_keys(
    sound: dict[str, Any], tmp_path: Path
) -> None:
    seed = base64.b64encode(bytes(range(32))).decode()
    published = signing.public_keys(Settings(_env_file=None, signing_key=seed))
    keys = _save(tmp_path / "unlearning-keys.json", published)
    found = audit_file.verify_file(_save(tmp_path / "report.json", sound), keys=keys)
    assert found.ok
    assert {finding.level for finding in found.found} == {"ok"}


def test_a_pinned_public_key_does_as_well(sound: dict[str, Any], tmp_path: Path) -> None:
    pinned = tmp_path / "key.txt"
    pinned.write_text(base64.b64encode(SIGNER.public_key).decode() + "\n")
    assert audit_file.verify_file(_save(tmp_path / "report.json", sound), keys=pinned).ok


def test_without_a_key_it_says_what_the_embedded_one_is_worth(
    sound: dict[str, Any], tmp_path: Path
) -> None:
    found = audit_file.verify_file(_save(tmp_path / "report.json", sound))
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
    report = _save(tmp_path / "report.json", everybodys.sign(document))
    keys = _save(tmp_path / "keys.json", signing.public_keys(settings))
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
    published = _save(tmp_path / "keys.json", {"keys": [listed]})
    report = _save(tmp_path / "report.json", sound)
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
    keys = _save(tmp_path / "keys.json", published)
    found = audit_file.verify_file(_save(tmp_path / "report.json", sound), keys=keys)
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


LIES: dict[str, tuple[Change, str]] = {
    "another verdict": (
        lambda d: d["measured"].update(verdict="no_power"),
        "not what the outcomes of the gates come to",
    ),
    "a failed gate turned": (
        lambda d: d["measured"]["gates"][0].update(outcome="failed"),
        "not what the outcomes of the gates come to",
    ),
    "verdict and gates turned": (
        lambda d: (
            d["measured"].update(verdict="failed"),
            d["measured"]["gates"][0].update(outcome="failed"),
        ),
        "names another verdict",
    ),
    "other weights": (
        lambda d: (
            d["done"].update(digest_after="f" * 64),
            d["lineage"][0].update(digest="f" * 64),
        ),
        "names other weights",
    ),
    "other weights before": (
        lambda d: d["done"].update(digest_before="f" * 64),
        "not that of the base",
    ),
    "a request left out": (lambda d: d["asked"]["requests"].pop(), "count of requests"),
    "a request made up": (
        lambda d: (
            d["asked"]["requests"].append(d["asked"]["requests"][0] | {"id": "dr_x"}),
            d["asked"]["counts"].update(requests=3),
        ),
        "no audit line mentions dr_x",
    ),
    "a record left out": (
        lambda d: d["asked"]["requests"][0]["records"].pop(),
        "matched another number",
    ),
    "a record that nobody asked for": (
        lambda d: d["done"]["batch"]["records"].__setitem__(0, "f" * 64),
        "no request names",
    ),
    "more overwritten than there is": (
        lambda d: d["asked"]["raw_rows"].update(overwritten=9),
        "more raw rows",
    ),
    "a count of the batch": (
        lambda d: d["done"]["batch"].update(count=1),
        "counts other records",
    ),
    "a shorter lineage": (lambda d: d["lineage"].pop(), "does not end with the anchor"),
    "no lineage": (lambda d: d["lineage"].clear(), "lineage is empty"),
    "no registration": (lambda d: d["chain"]["lines"].pop(0), "registers this version"),
    "a line changed": (
        lambda d: d["chain"]["lines"][0].update(actor="key:other"),
        "the line was changed",
    ),
    "a line with an extra member": (
        lambda d: d["chain"]["lines"][0].update(note="x"),
        "the line was changed",
    ),
    "lines out of order": (lambda d: d["chain"]["lines"].reverse(), "out of order"),
    "a line of another chain": (
        lambda d: _rechain(d["chain"]["lines"][1], previous_hash="f" * 64),
        "does not follow line",
    ),
    "a head that is too early": (
        lambda d: d["chain"].update(
            head=SIGNER.sign({"type": "chain-head", "seq": 2, "hash": "0" * 64, "at": "x"})
        ),
        "do not fit under the signed head",
    ),
    "a head changed": (lambda d: d["chain"]["head"].update(seq=999), "signed head of the chain:"),
    "a receipt of another version": (
        lambda d: d["purges"][0].update(subject="version:m/9"),
        "another version's",
    ),
    "a receipt changed": (
        lambda d: d["purges"][0]["receipt"].update(destroyed=["all"]),
        "purge receipt of",
    ),
    "live with forgotten records": (
        lambda d: d.update(carries_forgotten=["dr_x"]),
        "still carries forgotten records",
    ),
    "no caveats": (lambda d: d["does_not_prove"].clear(), "does not prove"),
    "a missing part": (
        lambda d: d.pop("lineage"),
        "not a report that can be checked here: lineage",
    ),
    "a format of the future": (lambda d: d.update(format=2), "not a report"),
    "the end of a request cut off": (
        lambda d: _leave_out(d, "deletion_request:completed"),
        "is completed: lines were left out",
    ),
    "the end of the batch cut off": (
        lambda d: _leave_out(d, "batch:completed"),
        "is completed: lines were left out",
    ),
    "the beginning of the batch left out": (
        lambda d: _leave_out(d, "batch:claimed"),
        "began: lines were left out",
    ),
    "the verification left out": (
        lambda d: _leave_out(d, "version:verified"),
        "that this version was verified: lines were left out",
    ),
    "the promotion left out": (
        lambda d: _leave_out(d, "version:promoted"),
        "that this version was published: lines were left out",
    ),
    "all lines after the fourth cut off": (
        lambda d: d["chain"]["lines"].__delitem__(slice(4, None)),
        "lines were left out",
    ),
    "a line about another model": (
        lambda d: d["chain"]["lines"].append(
            _rechained(d["chain"]["lines"][-1], seq=99, subject="version:other/1")
        ),
        "audit line 99 is about something else",
    ),
    "a first line that follows another": (
        lambda d: d["chain"]["lines"].insert(
            0, _rechained(d["chain"]["lines"][0], seq=1, previous_hash="f" * 64)
        ),
        "audit line 1 follows another line",
    ),
    "a head of another day": (
        lambda d: d["chain"].update(
            head=SIGNER.sign(d["chain"]["head"] | {"at": "2025-01-01T00:00:00.000000Z"})
        ),
        "at another moment",
    ),
    "a head of another service": (
        lambda d: d["chain"].update(head=STRANGER.sign(d["chain"]["head"])),
        "another key signed the head",
    ),
    "a head in place of a receipt": (
        lambda d: d["purges"][0].update(
            receipt=SIGNER.sign({"type": "chain-head", "version": d["purges"][0]["subject"]})
        ),
        "another version's",
    ),
    "a receipt of another model": (
        lambda d: d["purges"].append(
            {
                "line": 1,
                "subject": "version:other/1",
                "receipt": SIGNER.sign({"type": "purge-receipt", "version": "version:other/1"}),
            }
        ),
        "another model's",
    ),
    "no receipt of what was destroyed": (
        lambda d: d["purges"].clear(),
        "said to be destroyed and has no receipt",
    ),
    "what was destroyed remains": (
        lambda d: d["remaining"].append({"kind": "weights", "version": 1}),
        "has a receipt of its destruction and remains",
    ),
    "a request listed twice": (
        lambda d: (
            d["asked"]["requests"].append(d["asked"]["requests"][0]),
            d["asked"]["counts"].update(requests=3),
        ),
        "listed twice",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_report_that_contradicts_itself_is_found_even_if_well_signed(
    sound: dict[str, Any], lie: str
) -> None:
    change, expected = LIES[lie]
    document = copy.deepcopy(sound)
    change(document)
    found = audit_file.verify_bytes(canonical.encode(SIGNER.sign(document)))
    assert not found.ok
    assert expected in " ".join(found.lines())


def test_what_the_file_says_cannot_steer_the_terminal(sound: dict[str, Any]) -> None:
    document = SIGNER.sign(sound | {"model": "\x1b[2J\x07m"})
    for line in audit_file.verify_bytes(canonical.encode(document)).lines():
        assert line.isprintable()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"a":1,"a":2}',
        b"[" * 100_000,
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":1e999}',
        b'{"a":NaN}',
        b'{"a":"\\ud800"}',
        b'{"signature":{"algorithm":"Ed25519","key_id":"","public_key":"AA==","value":"!"}}',
    ],
)
def test_a_file_that_is_no_report_is_a_finding(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    found = audit_file.verify_file(path)
    assert not found.ok
    assert found.lines()[-1].startswith("The file is NOT sound")


@pytest.mark.parametrize("which", ["missing", "directory", "keys"])
def test_a_path_that_cannot_be_read_is_a_finding(
    sound: dict[str, Any], tmp_path: Path, which: str
) -> None:
    saved = _save(tmp_path / "report.json", sound)
    path = {"missing": tmp_path / "none", "directory": tmp_path, "keys": saved}[which]
    keys = tmp_path / "none" if which == "keys" else None
    found = audit_file.verify_file(path, keys=keys)
    assert "cannot be read" in found.lines()[0]


@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=200))
def test_arbitrary_bytes_are_never_sound(content: bytes) -> None:
    assert not audit_file.verify_bytes(content).ok


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=st.binary(max_size=200))
@example(content=b"{}")
@example(content=b"\xff")
@example(content=b'{"keys":[{"crv":"Ed25519","x":"\\u00e9"}]}')
def test_an_arbitrary_key_file_trusts_nobody(
    sound: dict[str, Any], tmp_path: Path, content: bytes
) -> None:
    keys = tmp_path / "keys.json"
    keys.write_bytes(content)
    assert not audit_file.verify_file(_save(tmp_path / "report.json", sound), keys=keys).ok


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_mutated_bytes_are_never_taken_for_the_report(
    sound: dict[str, Any], data: st.DataObject
) -> None:
    content = bytearray(canonical.encode(sound))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    found = audit_file.verify_bytes(bytes(content))
    assert not found.ok or _same(bytes(content), sound)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_document_that_somebody_signs_is_answered_with_findings(
    sound: dict[str, Any], data: st.DataObject
) -> None:
    document = copy.deepcopy(sound)
    for _ in range(data.draw(st.integers(1, 3))):
        holder, key = data.draw(st.sampled_from(_places(document)))
        if data.draw(st.booleans()):
            holder[key] = data.draw(JSON)
        else:
            del holder[key]
            if isinstance(holder, list):
                continue
    found = audit_file.verify_bytes(canonical.encode(STRANGER.sign(document)))
    assert found.lines()


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


def _save(path: Path, document: dict[str, Any]) -> Path:
    path.write_bytes(canonical.encode(document))
    return path


def _key(signer: signing.Signer) -> str:
    return base64.b64encode(signer.public_key).decode()


def _same(content: bytes, document: dict[str, Any]) -> bool:
    """Whether a mutation left the meaning as it was (a blank more, a zero less)."""
    return bool(canonical.decode(content) == document)


def _rechain(line: dict[str, Any], **changes: Any) -> None:
    line.update(changes)
    line["hash"] = hash_chain.line_hash(line)


def _rechained(line: dict[str, Any], **changes: Any) -> dict[str, Any]:
    made = copy.deepcopy(line)
    _rechain(made, **changes)
    return made


def _leave_out(document: dict[str, Any], action: str) -> None:
    lines = document["chain"]["lines"]
    lines[:] = [line for line in lines if line["action"] != action]


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (holder, key) in a document."""
    keys = value.keys() if isinstance(value, dict) else range(len(value))
    found = [(value, key) for key in keys]
    for key in keys:
        if isinstance(value[key], dict | list):
            found += _places(value[key])
    return found
