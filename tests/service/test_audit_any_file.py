"""Files of any content: none makes the offline check stumble, and none is taken for sound."""

from __future__ import annotations

import base64
import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from service import audit_file
from service.ledger.audit import canonical, statements
from tests.histories import SIGNER
from tests.service.saved_reports import STRANGER, save

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)


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
    saved = save(tmp_path / "report.json", sound)
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
    assert not audit_file.verify_file(save(tmp_path / "report.json", sound), keys=keys).ok


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


#: One of each type of JSON, and lists of what is no object and of objects with unhashable values.
OF_EACH_TYPE = (None, True, 7, -0.5, "text", [], ["text"], [[]], {}, [{"kind": []}], {"kind": {}})


def test_a_value_of_any_type_anywhere_in_a_signed_report_is_answered_with_findings(
    sound: dict[str, Any],
) -> None:
    document = copy.deepcopy(sound)
    for holder, key in _kinds_of_places(document).values():
        original = holder[key]
        for value in OF_EACH_TYPE:
            holder[key] = value
            found = audit_file.verify_bytes(canonical.encode(STRANGER.sign(document)))
            assert found.lines(), (key, value)
        holder[key] = original


def test_a_value_of_any_type_beside_an_envelope_in_a_page_is_answered_with_findings(
    sound: dict[str, Any],
) -> None:
    """An envelope's own members are not signed, so anybody can add them."""
    envelope = statements.envelope(sound, signer=SIGNER)
    for value in OF_EACH_TYPE:
        signed = canonical.encode({**envelope, "type": value})
        assert audit_file.verify_bytes(signed).ok
        data = base64.b64encode(signed).decode()
        page = f'<!doctype html><a id="signed" href="data:application/json;base64,{data}">it</a>'
        found = audit_file.verify_bytes(page.encode())
        assert not found.ok
        assert any("somebody else wrote its words" in line for line in found.lines())


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


def _same(content: bytes, document: dict[str, Any]) -> bool:
    """Whether a mutation left the meaning as it was (a blank more, a zero less)."""
    return bool(canonical.decode(content) == document)


def _kinds_of_places(value: Any, *path: Any) -> dict[tuple[Any, ...], tuple[Any, Any]]:
    """One (holder, key) for each path in a document, in which all members of a list are alike."""
    is_list = isinstance(value, list)
    found = {}
    for key in range(len(value)) if is_list else value:
        here = (*path, "each" if is_list else key)
        found[here] = (value, key)
        if isinstance(value[key], dict | list):
            found |= _kinds_of_places(value[key], *here)
    return found


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (holder, key) in a document."""
    keys = value.keys() if isinstance(value, dict) else range(len(value))
    found = [(value, key) for key in keys]
    for key in keys:
        if isinstance(value[key], dict | list):
            found += _places(value[key])
    return found
