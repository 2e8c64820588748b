"""What the page about the audit chain shows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from service.api import pagination
from service.ledger.audit import chain, signing

#: Lines that a check from the page recomputes; a check of everything is a command.
CHECKED = 10_000


@dataclass(frozen=True)
class Check:
    """The result of a check, in the words of the page."""

    sound: bool
    said: str


def page(
    session: Session,
    signer: signing.Signer,
    paging: pagination.Paging,
    *,
    subject: str,
    action: str,
    now: datetime,
) -> dict[str, Any]:
    """Return the signed head and a page of the chain, newest first."""
    known = chain.Action(action) if action in list(chain.Action) else None
    lines = chain.page(
        session,
        limit=paging.fetch,
        before=paging.after(int),
        subject=subject or None,
        action=known,
    )
    shown = paging.page(lines, key=lambda line: line.seq)
    return {
        "head": chain.checkpoint(session, signer, now=now),
        "lines": [chain.describe(line) for line in shown["items"]],
        "next": shown["next_cursor"],
        "subject": subject,
        "action": action if known else "",
        "actions": sorted(chain.Action),
        "checked_lines": CHECKED,
    }


def check(session: Session, head: int) -> Check:
    """Recompute the newest lines of a chain of ``head`` lines."""
    since = max(0, head - CHECKED)
    found = chain.verify(session, since=since)
    if found.sound:
        before = f" The {since} lines before them were not read." if since else ""
        said = f"Sound: {found.lines} lines were recomputed, up to line {found.seq}.{before}"
        return Check(True, said)
    return Check(False, f"Not sound: at line {found.bad_seq}, {found.problem}.")


def compare(session: Session, seq: int, digest: str) -> Check:
    """Compare a head that was kept elsewhere with the chain."""
    if chain.holds(session, seq=seq, hash=digest):
        return Check(True, f"The chain still has line {seq} as it was kept.")
    return Check(
        False,
        f"The chain has no line {seq} with this hash: it was cut or rewritten, or the head is "
        "that of another installation.",
    )
