"""Calls about audit, to be awaited."""

# Written by `make client` from the OpenAPI document; do not edit.

from __future__ import annotations

from collections.abc import AsyncIterator

from .. import shapes
from ..answers import Page, Text
from ..calls import Call
from ..drivers import AsyncNoun


class AsyncAuditCalls(AsyncNoun):
    """Calls about audit, to be awaited."""

    async def public_keys(
        self,
    ) -> shapes.PublicKeys:
        """Call ``GET /.well-known/unlearning-keys.json`` (no API key).

        The public keys of the signatures. Return a JSON Web Key set; `unlearn audit verify --keys`
        reads it.
        """
        return await self._call(
            Call[shapes.PublicKeys]("GET", "/.well-known/unlearning-keys.json", shapes.PublicKeys)
        )

    async def model_signing_key(
        self,
    ) -> str:
        """Call ``GET /.well-known/unlearning-model-signing.pem`` (no API key).

        The public key of signatures over weights. Return an ECDSA P-256 key as PEM, for
        `model_signing verify key`.
        """
        return await self._call(Call[str]("GET", "/.well-known/unlearning-model-signing.pem", Text))

    async def model_signing_key_by_id(
        self,
        key_id: str,
    ) -> str:
        """Call ``GET /.well-known/unlearning-model-signing/{key_id}.pem`` (no API key).

        A public key of signatures over weights, in force or retired. Return an ECDSA P-256 key as
        PEM by its id, the `hint` of the bundles that it signed. Keys that were replaced stay here
        while `UNLEARN_RETIRED_MODEL_SIGNING_KEYS` lists them.
        """
        return await self._call(
            Call[str](
                "GET",
                "/.well-known/unlearning-model-signing/{key_id}.pem",
                Text,
                {"key_id": key_id},
            )
        )

    async def page_events(
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
        return await self._call(
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
    ) -> AsyncIterator[shapes.AuditEvent]:
        """Go through all pages of ``page_events``; ``limit``: rows per page."""
        return self._each(
            Call[Page[shapes.AuditEvent]](
                "GET",
                "/v1/audit/events",
                Page[shapes.AuditEvent],
                query={"subject": subject, "action": action, "limit": limit},
            )
        )

    async def checkpoint(
        self,
    ) -> shapes.Signed:
        """Call ``GET /v1/audit/checkpoint`` (scope audit:read).

        The signed head of the chain. Return the head to keep: compared with it, a cut or rewritten
        chain is detected.
        """
        return await self._call(Call[shapes.Signed]("GET", "/v1/audit/checkpoint", shapes.Signed))

    async def log_checkpoint(
        self,
    ) -> str:
        """Call ``GET /v1/audit/log/checkpoint`` (scope audit:read).

        The signed checkpoint of the log. Return a signed note with the number of lines and the root
        of their Merkle tree. Anybody's program for such logs reads it (c2sp.org/tlog-checkpoint).
        Keep one elsewhere from time to time: a proof of consistency then shows that the log only
        grew.
        """
        return await self._call(Call[str]("GET", "/v1/audit/log/checkpoint", Text))

    async def log_inclusion(
        self,
        *,
        line: int,
        size: int | None = None,
    ) -> shapes.Inclusion:
        """Call ``GET /v1/audit/log/inclusion`` (scope audit:read).

        Prove that a line is in the log. Return the proof for a line; reports and receipts name
        lines with their hashes.
        """
        return await self._call(
            Call[shapes.Inclusion](
                "GET",
                "/v1/audit/log/inclusion",
                shapes.Inclusion,
                query={"line": line, "size": size},
            )
        )

    async def log_consistency(
        self,
        *,
        first: int,
        second: int | None = None,
    ) -> shapes.Consistency:
        """Call ``GET /v1/audit/log/consistency`` (scope audit:read).

        Prove that the log continues an earlier one. Return the proof that the log's first lines are
        those of a checkpoint of `first` lines.
        """
        return await self._call(
            Call[shapes.Consistency](
                "GET",
                "/v1/audit/log/consistency",
                shapes.Consistency,
                query={"first": first, "second": second},
            )
        )
