"""The audit chain as a transparency log: its lines as entries of a Merkle tree.

Entry i is the hash (32 bytes) of line i + 1, so a line's entry can be checked without the line's
data. The tree is a second form of the chain: it is computed from the lines and stored nowhere.
Hashes of whole tiles of 256 lines are kept in memory, since lines never change; reading a million
lines for the first time takes seconds, and afterwards only what is new is read.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.errors import Conflict, Unprocessable
from service.ledger.audit import chain, merkle
from service.ledger.database.tables import AuditEvent, AuditHead

#: Levels of the tree within a tile, and its lines.
HEIGHT = 8
TILE = 1 << HEIGHT


class ChainBroken(Conflict):
    """A line of the audit chain is missing."""

    code = "chain-broken"


@dataclass
class Log:
    """The tree of a process; one for all its threads."""

    #: Hashes of complete subtrees, by level less ``HEIGHT`` and index.
    _nodes: list[list[bytes]] = field(default_factory=lambda: [[]])
    #: Hash of the last line of the whole tiles that were read.
    _last: str = chain.GENESIS
    _turn: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def size(self, session: Session) -> int:
        """Return how many entries the log has."""
        return session.scalars(select(AuditHead.seq).where(AuditHead.id == 1)).one()

    def line_hash(self, session: Session, line: int) -> str:
        """Return the hash of a line that the log has, 64 hex digits."""
        return session.scalars(select(AuditEvent.hash).where(AuditEvent.seq == line)).one()

    def root(self, session: Session, size: int) -> bytes:
        """Return the root of the tree over the first ``size`` lines."""
        return merkle.root(size, self._subtrees(session, size))

    def inclusion(self, session: Session, line: int, size: int) -> list[bytes]:
        """Return the proof that line number ``line`` is in the tree of ``size`` lines."""
        if line > size:
            raise Unprocessable(f"line {line} is not among the first {size}; ask for a larger size")
        return merkle.inclusion(line - 1, size, self._subtrees(session, size))

    def consistency(self, session: Session, first: int, second: int) -> list[bytes]:
        """Return the proof that the tree of ``second`` lines continues that of ``first``."""
        if first > second:
            raise Unprocessable("`first` must not be larger than `second`")
        return merkle.consistency(first, second, self._subtrees(session, second))

    def _subtrees(self, session: Session, size: int) -> merkle.Subtree:
        """Return the hashes of complete subtrees of the first ``size`` lines, which must exist."""
        known = self.size(session)
        if size > known:
            raise Unprocessable(f"the log has {known} lines; ask for at most as many")
        nodes = self._read(session, size // TILE)
        read: dict[int, list[bytes]] = {}

        def subtree(level: int, index: int) -> bytes:
            if level >= HEIGHT:
                return nodes[level - HEIGHT][index]
            tile = (index << level) >> HEIGHT
            if tile not in read:
                first = tile * TILE
                read[tile] = _leaves(session, first, min(first + TILE, size))
            start = (index << level) - tile * TILE
            return merkle.complete(read[tile][start : start + (1 << level)])

        return subtree

    def _read(self, session: Session, tiles: int) -> list[list[bytes]]:
        """Read the lines of whole tiles that are not known yet; return all that is known."""
        with self._turn:
            if not chain.holds(session, seq=len(self._nodes[0]) * TILE, hash=self._last):
                # The database is another one than before: a backup was restored meanwhile.
                self._nodes, self._last = [[]], chain.GENESIS
            for tile in range(len(self._nodes[0]), tiles):
                first, end = tile * TILE, (tile + 1) * TILE
                self._add(merkle.complete(_leaves(session, first, end)))
                self._last = self.line_hash(session, end)
            return self._nodes

    def _add(self, tile: bytes) -> None:
        """Add a tile's hash, and those of the subtrees that it completes."""
        level, made = 0, tile
        while True:
            if level == len(self._nodes):
                self._nodes.append([])
            row = self._nodes[level]
            row.append(made)
            if len(row) % 2:
                return
            level, made = level + 1, merkle.node(row[-2], row[-1])


def _leaves(session: Session, first: int, end: int) -> list[bytes]:
    """Return the leaf hashes of entries from ``first`` to before ``end``."""
    wanted = select(AuditEvent.seq, AuditEvent.hash).where(
        AuditEvent.seq > first, AuditEvent.seq <= end
    )
    found = session.execute(wanted.order_by(AuditEvent.seq)).all()
    if [seq for seq, _ in found] != list(range(first + 1, end + 1)):
        raise ChainBroken("a line of the audit chain is missing; run: unlearn audit check")
    return [merkle.leaf(bytes.fromhex(one)) for _, one in found]
