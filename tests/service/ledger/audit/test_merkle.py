"""Merkle proofs against the definitions of RFC 6962, and against a library of others."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import metamorphic_log as others
import pytest

from service.ledger.audit import merkle

ENTRIES = [hashlib.sha256(bytes([number])).digest() for number in range(40)]
SIZES = range(1, len(ENTRIES) + 1)


def _defined(entries: Sequence[bytes]) -> bytes:
    """MTH as section 2.1 defines it, by slices of the list."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\0" + entries[0]).digest()
    half = 1
    while half * 2 < len(entries):
        half *= 2
    halves = _defined(entries[:half]) + _defined(entries[half:])
    return hashlib.sha256(b"\1" + halves).digest()


def _subtree(level: int, index: int) -> bytes:
    return _defined(ENTRIES[index << level : (index + 1) << level])


def test_roots_are_those_of_the_definition() -> None:
    assert merkle.root(0, _subtree) == merkle.EMPTY == _defined([])
    for size in SIZES:
        assert merkle.root(size, _subtree) == _defined(ENTRIES[:size])
        if size & (size - 1) == 0:
            leaves = [merkle.leaf(one) for one in ENTRIES[:size]]
            assert merkle.complete(leaves) == _defined(ENTRIES[:size])


def test_every_entry_of_every_tree_is_proved_to_others_and_to_us() -> None:
    for size in SIZES:
        root = _defined(ENTRIES[:size])
        for index in range(size):
            proof = merkle.inclusion(index, size, _subtree)
            others.verify_inclusion(index, size, merkle.leaf(ENTRIES[index]), proof, root)
            assert merkle.includes(ENTRIES[index], index, size, proof, root)


def test_a_wrong_proof_of_inclusion_convinces_nobody() -> None:
    size = 21
    root = _defined(ENTRIES[:size])
    for index in range(size):
        proof = merkle.inclusion(index, size, _subtree)
        wrong = [
            (ENTRIES[index + 1], index, size, proof),
            (ENTRIES[index], (index + 1) % size, size, proof),
            (ENTRIES[index], index, size, proof[:-1]),
            (ENTRIES[index], index, size, [*proof, root]),
            (ENTRIES[index], index, size, [root, *proof[1:]]),
        ]
        for entry, at, count, path in wrong:
            assert not merkle.includes(entry, at, count, path, root)
            with pytest.raises(others.VerifyError):
                others.verify_inclusion(at, count, merkle.leaf(entry), path, root)
    assert not merkle.includes(ENTRIES[0], -1, size, [], root)
    assert not merkle.includes(ENTRIES[0], size, size, [], root)


def test_every_tree_is_proved_to_continue_every_smaller_one() -> None:
    for second in SIZES:
        new = _defined(ENTRIES[:second])
        for first in range(1, second + 1):
            old = _defined(ENTRIES[:first])
            proof = merkle.consistency(first, second, _subtree)
            others.verify_consistency(first, second, proof, old, new)
            assert merkle.continues(first, second, proof, old, new)


def test_a_rewritten_log_is_proved_to_continue_nothing() -> None:
    for second in (8, 13, 21):
        new = _defined(ENTRIES[:second])
        for first in range(1, second):
            proof = merkle.consistency(first, second, _subtree)
            rewritten = _defined([*ENTRIES[1:first], ENTRIES[0]] if first > 1 else [ENTRIES[3]])
            assert not merkle.continues(first, second, proof, rewritten, new)
            with pytest.raises(others.VerifyError):
                others.verify_consistency(first, second, proof, rewritten, new)
            old = _defined(ENTRIES[:first])
            for path in (proof[:-1], [*proof, old], [new, *proof[1:]]):
                assert not merkle.continues(first, second, path, old, new)
    assert not merkle.continues(0, 3, [], merkle.EMPTY, merkle.EMPTY)
    assert not merkle.continues(4, 3, [], merkle.EMPTY, merkle.EMPTY)


def test_what_a_tree_does_not_have_is_refused() -> None:
    for index, size in ((-1, 3), (3, 3)):
        with pytest.raises(ValueError, match="entry"):
            merkle.inclusion(index, size, _subtree)
    for first, second in ((0, 3), (4, 3)):
        with pytest.raises(ValueError, match="first tree"):
            merkle.consistency(first, second, _subtree)
