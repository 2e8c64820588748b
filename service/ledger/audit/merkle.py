"""Merkle trees over a list of entries: roots, and proofs of inclusion and consistency.

RFC 6962, section 2.1 (the same tree as in RFC 9162 and in C2SP's tlog-checkpoint). ``subtree(level,
index)`` is the hash of the complete subtree over the 2^level entries from index·2^level on; every
hash of a root or a proof is made of such hashes. Pure functions: no database, no keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

#: (level, index) -> hash of a complete subtree, 32 bytes.
Subtree = Callable[[int, int], bytes]

#: Root of the empty tree.
EMPTY = hashlib.sha256(b"").digest()


def leaf(entry: bytes) -> bytes:
    """Return the hash of an entry."""
    return hashlib.sha256(b"\0" + entry).digest()


def node(left: bytes, right: bytes) -> bytes:
    """Return the hash of a subtree with these two halves."""
    return hashlib.sha256(b"\1" + left + right).digest()


def complete(leaves: Sequence[bytes]) -> bytes:
    """Return the hash of a complete subtree of leaf hashes, whose number is a power of two."""
    row = list(leaves)
    while len(row) > 1:
        row = [node(row[at], row[at + 1]) for at in range(0, len(row), 2)]
    return row[0]


def root(size: int, subtree: Subtree) -> bytes:
    """Return the root of the tree over the first ``size`` entries: MTH of the RFC."""
    return _range(0, size, subtree) if size else EMPTY


def inclusion(index: int, size: int, subtree: Subtree) -> list[bytes]:
    """Return the audit path of entry ``index`` (from 0) in the tree of ``size``: PATH of the RFC.

    Raise ``ValueError`` if the tree does not have the entry.
    """
    if not 0 <= index < size:
        raise ValueError("the tree does not have this entry")
    return _path(index, 0, size, subtree)


def consistency(first: int, second: int, subtree: Subtree) -> list[bytes]:
    """Return the proof that the tree of ``second`` continues that of ``first``: PROOF of the RFC.

    Raise ``ValueError`` unless 0 < first <= second.
    """
    if not 0 < first <= second:
        raise ValueError("the first tree must have an entry, and no more than the second")
    return _subproof(first, 0, second, True, subtree)


def includes(entry: bytes, index: int, size: int, proof: Sequence[bytes], head: bytes) -> bool:
    """Return whether a proof shows that entry ``index`` of the tree with this root is ``entry``.

    RFC 9162, section 2.1.3.2.
    """
    if not 0 <= index < size:
        return False
    at, last, made = index, size - 1, leaf(entry)
    for one in proof:
        if last == 0:
            return False
        if at % 2 == 1 or at == last:
            made = node(one, made)
            while at % 2 == 0 and at != 0:
                at, last = at >> 1, last >> 1
        else:
            made = node(made, one)
        at, last = at >> 1, last >> 1
    return last == 0 and made == head


def continues(
    first: int, second: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes
) -> bool:
    """Return whether a proof shows that the tree of the new root continues that of the old one.

    RFC 9162, section 2.1.4.2.
    """
    if not 0 < first <= second:
        return False
    if first == second:
        return not proof and old_root == new_root
    path = list(proof)
    if first & (first - 1) == 0:
        path.insert(0, old_root)
    if not path:
        return False
    at, last = first - 1, second - 1
    while at % 2 == 1:
        at, last = at >> 1, last >> 1
    old = new = path[0]
    for one in path[1:]:
        if last == 0:
            return False
        if at % 2 == 1 or at == last:
            old, new = node(one, old), node(one, new)
            while at % 2 == 0 and at != 0:
                at, last = at >> 1, last >> 1
        else:
            new = node(new, one)
        at, last = at >> 1, last >> 1
    return last == 0 and old == old_root and new == new_root


def _split(count: int) -> int:
    """Return the largest power of two below ``count``."""
    return 1 << (count - 1).bit_length() - 1


def _range(start: int, end: int, subtree: Subtree) -> bytes:
    """Return the hash over the entries from ``start`` to before ``end``: MTH of the RFC."""
    count = end - start
    if count & (count - 1) == 0:  # its start is a multiple of its size
        level = count.bit_length() - 1
        return subtree(level, start >> level)
    middle = start + _split(count)
    return node(_range(start, middle, subtree), _range(middle, end, subtree))


def _path(index: int, start: int, end: int, subtree: Subtree) -> list[bytes]:
    if end - start == 1:
        return []
    middle = start + _split(end - start)
    if index < middle:
        return [*_path(index, start, middle, subtree), _range(middle, end, subtree)]
    return [*_path(index, middle, end, subtree), _range(start, middle, subtree)]


def _subproof(first: int, start: int, end: int, whole: bool, subtree: Subtree) -> list[bytes]:
    """Return SUBPROOF of the RFC for the first tree's entries up to before ``first``."""
    if first == end:
        return [] if whole else [_range(start, end, subtree)]
    middle = start + _split(end - start)
    if first <= middle:
        rest = _subproof(first, start, middle, whole, subtree)
        return [*rest, _range(middle, end, subtree)]
    rest = _subproof(first, middle, end, False, subtree)
    return [*rest, _range(start, middle, subtree)]
