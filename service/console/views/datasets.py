"""What the pages about datasets show."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from service.api import pagination
from service.console import charts
from service.console.sessions import Visitor
from service.ledger.registry import appends, datasets
from service.ledger.reports import disclosure, workload

#: Appends that are shown.
APPENDS = 20
#: Among the notes of an append, rows that did not join: forgotten before, there already, or of a
#: class that was forgotten.
LEFT_OUT = ("suppressed", "existing", "of_forgotten_classes")


def listing(session: Session, paging: pagination.Paging) -> dict[str, Any]:
    """Return a page of the datasets."""
    rows = datasets.page(session, after=paging.after(str), limit=paging.fetch)
    page = paging.page(rows, key=lambda row: row.name)
    return {"rows": page["items"], "next": page["next_cursor"], "bar": charts.progress}


def one(session: Session, visitor: Visitor, name: str) -> dict[str, Any]:
    """Return a dataset: its parts and columns, and how many of its rows are kept out."""
    row = datasets.get(session, name)
    described = datasets.describe(session, row)
    suppressed = workload.suppressed_rows(session, row)
    newest = appends.page(session, row, before=None, limit=APPENDS)
    few = suppressed < disclosure.LEAST_ROWS and not visitor.may("audit:read")
    return {
        "dataset": described,
        "picture": charts.shares(described["splits"]),
        "bar": charts.progress,
        "growth": [_growth(appends.describe(one, row)) for one in newest],
        "suppressed": None if few else suppressed,
        "least_rows": disclosure.LEAST_ROWS,
        "may_withdraw": visitor.may("models:write") and row.withdrawn_at is None,
    }


def _growth(described: dict[str, Any]) -> dict[str, Any]:
    """Return an append with how many rows of its source were left out."""
    notes = described["notes"]
    left_out = None if notes is None else sum(notes.get(name) or 0 for name in LEFT_OUT)
    return {**described, "left_out": left_out}
