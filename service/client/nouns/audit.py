"""Calls about audit."""

# Written by `make client` from the OpenAPI document; do not edit.

from __future__ import annotations

from collections.abc import Iterator

from .. import shapes
from ..answers import Page
from ..calls import Call
from ..drivers import Noun


class AuditCalls(Noun):
    """Calls about audit."""

    def public_keys(
        self,
    ) -> shapes.PublicKeys:
        """Call ``GET /.well-known/unlearning-keys.json`` (no API key).

        The public keys of the signatures. Return a JSON Web Key set; `unlearn audit verify --keys`
        reads it.
        """
        return self._call(
            Call[shapes.PublicKeys]("GET", "/.well-known/unlearning-keys.json", shapes.PublicKeys)
        )

    def page_events(
        self,
        *,
        subject: str | None = None,
        action: shapes.Action | str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[shapes.AuditEvent]:
        """Call ``GET /v1/audit/events`` (scope audit:read).

        What happened, newest first. Return lines of the append-only chain; each holds the hash of
        the previous line.
        """
        return self._call(
            Call[Page[shapes.AuditEvent]](
                "GET",
                "/v1/audit/events",
                Page[shapes.AuditEvent],
                query={"subject": subject, "action": action, "limit": limit, "cursor": cursor},
            )
        )

    def each_events(
        self,
        *,
        subject: str | None = None,
        action: shapes.Action | str | None = None,
        limit: int | None = None,
    ) -> Iterator[shapes.AuditEvent]:
        """Go through all pages of ``page_events``; ``limit``: rows per page."""
        return self._each(
            Call[Page[shapes.AuditEvent]](
                "GET",
                "/v1/audit/events",
                Page[shapes.AuditEvent],
                query={"subject": subject, "action": action, "limit": limit},
            )
        )

    def checkpoint(
        self,
    ) -> shapes.Signed:
        """Call ``GET /v1/audit/checkpoint`` (scope audit:read).

        The signed head of the chain. Return the head to keep: compared with it, a cut or rewritten
        chain is detected.
        """
        return self._call(Call[shapes.Signed]("GET", "/v1/audit/checkpoint", shapes.Signed))
