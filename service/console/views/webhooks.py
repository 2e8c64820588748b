"""What the pages about webhooks show."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from service.api import pagination
from service.api.routes import webhooks as public
from service.ledger.webhooks import endpoints


def listing(session: Session, paging: pagination.Paging) -> dict[str, Any]:
    """Return a page of the webhooks."""
    rows = endpoints.listing(session, after=paging.after(str), limit=paging.fetch)
    page = paging.page(rows, key=lambda row: row.id)
    last = endpoints.head(session)
    return {
        "rows": [public.view(row, last) for row in page["items"]],
        "next": page["next_cursor"],
    }


def one(
    session: Session, webhook_id: str, paging: pagination.Paging, *, failed: bool
) -> dict[str, Any]:
    """Return a webhook and a page of its deliveries; ``failed``: of those that failed."""
    row = endpoints.get(session, webhook_id)
    last = endpoints.head(session)
    attempts = endpoints.deliveries(
        session,
        webhook_id,
        before=paging.after(int),
        limit=paging.fetch,
        failed=True if failed else None,
    )
    page = paging.page(attempts, key=lambda attempt: attempt.id)
    return {
        "webhook": public.view(row, last),
        "last": last,
        "attempts": [public.attempt(attempt) for attempt in page["items"]],
        "next": page["next_cursor"],
        "failed": failed,
    }
