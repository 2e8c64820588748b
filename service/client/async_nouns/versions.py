"""Calls about versions, to be awaited."""

# Written by `make client` from the OpenAPI document; do not edit.

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

from .. import shapes
from ..answers import Page
from ..calls import UNSET, Call, Unset
from ..drivers import AsyncNoun


class AsyncVersionsCalls(AsyncNoun):
    """Calls about versions, to be awaited."""

    async def signature(
        self,
        model: str,
        number: int,
    ) -> shapes.Bundle:
        """Call ``GET /v1/models/{model}/versions/{number}/checkpoint/signature``.

        Needs the scope models:read. The signature over a version's weights, in the OpenSSF model-
        signing format. Return a Sigstore bundle, made with a key, over the downloaded file.
        `model_signing verify key FILE --signature BUNDLE --public_key KEY` checks it; the key is at
        `/.well-known/unlearning-model-signing.pem`. What is not handed out is not signed either.
        """
        return await self._call(
            Call[shapes.Bundle](
                "GET",
                "/v1/models/{model}/versions/{number}/checkpoint/signature",
                shapes.Bundle,
                {"model": model, "number": number},
            )
        )

    async def create(
        self,
        model: str,
        *,
        content: bytes | Path,
        media_type: str = "application/octet-stream",
        data_revision: int | None = None,
        trained_on: str | None = None,
        promote: bool | None = None,
    ) -> shapes.VersionView:
        """Call ``POST /v1/models/{model}/versions`` (scope models:write).

        Import a checkpoint that was trained elsewhere. The body is a safetensors file with exactly
        the tensors that the model's `parameters` name. It becomes an anchor of its own. A worker
        measures it first, in seconds to minutes: poll `Location` until its status is no longer
        `candidate`; `status_reason` says how far it is and why it was refused. Give the
        `data_revision` of the dataset that it was trained on: weights that saw records forgotten
        since are refused.
        """
        return await self._call(
            Call[shapes.VersionView](
                "POST",
                "/v1/models/{model}/versions",
                shapes.VersionView,
                {"model": model},
                query={
                    "data_revision": data_revision,
                    "trained_on": trained_on,
                    "promote": promote,
                },
                content=content,
                media_type=media_type,
            )
        )

    async def page(
        self,
        model: str,
        *,
        status: shapes.VersionStatus | str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[shapes.VersionView]:
        """Call ``GET /v1/models/{model}/versions`` (scope models:read).

        List the model's versions, newest first. Return a page of the model's versions.
        """
        return await self._call(
            Call[Page[shapes.VersionView]](
                "GET",
                "/v1/models/{model}/versions",
                Page[shapes.VersionView],
                {"model": model},
                query={"status": status, "limit": limit, "cursor": cursor},
            )
        )

    def each(
        self,
        model: str,
        *,
        status: shapes.VersionStatus | str | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[shapes.VersionView]:
        """Go through all pages of ``page``; ``limit``: rows per page."""
        return self._each(
            Call[Page[shapes.VersionView]](
                "GET",
                "/v1/models/{model}/versions",
                Page[shapes.VersionView],
                {"model": model},
                query={"status": status, "limit": limit},
            )
        )

    async def get(
        self,
        model: str,
        number: int,
    ) -> shapes.VersionView:
        """Call ``GET /v1/models/{model}/versions/{number}`` (scope models:read).

        Show a version. Return a version.
        """
        return await self._call(
            Call[shapes.VersionView](
                "GET",
                "/v1/models/{model}/versions/{number}",
                shapes.VersionView,
                {"model": model, "number": number},
            )
        )

    async def page_lineage(
        self,
        model: str,
        number: int,
        *,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[shapes.LinkView]:
        """Call ``GET /v1/models/{model}/versions/{number}/lineage`` (scope models:read).

        Show how a version came about: its parents back to the anchor, newest first. Return a page
        of the version's ancestors up to its anchor.
        """
        return await self._call(
            Call[Page[shapes.LinkView]](
                "GET",
                "/v1/models/{model}/versions/{number}/lineage",
                Page[shapes.LinkView],
                {"model": model, "number": number},
                query={"limit": limit, "cursor": cursor},
            )
        )

    def each_lineage(
        self,
        model: str,
        number: int,
        *,
        limit: int | None = None,
    ) -> AsyncIterator[shapes.LinkView]:
        """Go through all pages of ``page_lineage``; ``limit``: rows per page."""
        return self._each(
            Call[Page[shapes.LinkView]](
                "GET",
                "/v1/models/{model}/versions/{number}/lineage",
                Page[shapes.LinkView],
                {"model": model, "number": number},
                query={"limit": limit},
            )
        )

    async def verification(
        self,
        model: str,
        number: int,
    ) -> shapes.VerificationView:
        """Call ``GET /v1/models/{model}/versions/{number}/verification`` (scope models:read).

        Show what was measured of a version, and the verdict. Return the measurements, without those
        that the key may not read.
        """
        return await self._call(
            Call[shapes.VerificationView](
                "GET",
                "/v1/models/{model}/versions/{number}/verification",
                shapes.VerificationView,
                {"model": model, "number": number},
            )
        )

    async def approve(
        self,
        model: str,
        number: int,
    ) -> shapes.VersionView:
        """Call ``POST /v1/models/{model}/versions/{number}:approve`` (scope models:promote).

        Approve a version that is held. For a version whose batch is `held`, because it lost
        accuracy or because memorised records may be left of it: it goes live now, and its deletion
        requests go on. Without approval it does so by itself, `hold_margin_days` of the policy
        before the first of them is due.
        """
        return await self._call(
            Call[shapes.VersionView](
                "POST",
                "/v1/models/{model}/versions/{number}:approve",
                shapes.VersionView,
                {"model": model, "number": number},
            )
        )

    async def withdraw(
        self,
        model: str,
        number: int,
        *,
        purge: Unset | Literal["after_window", "now"] = UNSET,
        promote: Unset | int | None = UNSET,
    ) -> shapes.VersionView:
        """Call ``POST /v1/models/{model}/versions/{number}:withdraw`` (scope models:promote).

        Withdraw a version: it is never handed out, live or imported again. If it is live, `promote`
        names what takes its place. Without that nothing is live, and the model's open erasures are
        complete. This cannot be undone.
        """
        return await self._call(
            Call[shapes.VersionView](
                "POST",
                "/v1/models/{model}/versions/{number}:withdraw",
                shapes.VersionView,
                {"model": model, "number": number},
                body={"purge": purge, "promote": promote},
            )
        )

    async def report(
        self,
        model: str,
        number: int,
    ) -> shapes.Signed:
        """Call ``GET /v1/models/{model}/versions/{number}/audit`` (scope audit:read).

        The signed report of a version. Return the signed report, by the Accept header as JSON, page
        or DSSE envelope. It tells what was requested, what was done, what was measured, what still
        holds the erased rows, and what the report does not prove. Signed are the bytes of the JSON;
        the page is made of them alone, and contains them. The envelope signs an in-toto statement
        whose predicate, `unlearning/v1`, is the signed report. `unlearn audit verify` checks a
        report in each form.
        """
        return await self._call(
            Call[shapes.Signed](
                "GET",
                "/v1/models/{model}/versions/{number}/audit",
                shapes.Signed,
                {"model": model, "number": number},
            )
        )

    async def page_record_scores(
        self,
        model: str,
        number: int,
        *,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[shapes.RecordScores]:
        """Call ``GET /v1/models/{model}/versions/{number}/audit/records`` (scope audit:read).

        What attacks say of a version's forgotten records, one by one. Return the scores of the
        version's batch, of the records whose raw rows still stand. Scores are deleted with the raw
        rows, so a list of a completed deletion is empty. It is of use while a version is held, or
        after one was rejected.
        """
        return await self._call(
            Call[Page[shapes.RecordScores]](
                "GET",
                "/v1/models/{model}/versions/{number}/audit/records",
                Page[shapes.RecordScores],
                {"model": model, "number": number},
                query={"limit": limit, "cursor": cursor},
            )
        )

    def each_record_scores(
        self,
        model: str,
        number: int,
        *,
        limit: int | None = None,
    ) -> AsyncIterator[shapes.RecordScores]:
        """Go through all pages of ``page_record_scores``; ``limit``: rows per page."""
        return self._each(
            Call[Page[shapes.RecordScores]](
                "GET",
                "/v1/models/{model}/versions/{number}/audit/records",
                Page[shapes.RecordScores],
                {"model": model, "number": number},
                query={"limit": limit},
            )
        )
