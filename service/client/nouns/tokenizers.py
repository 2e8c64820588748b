"""Calls about tokenizers."""

# Written by `make client` from the OpenAPI document; do not edit.

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .. import shapes
from ..answers import Nothing, Page
from ..calls import Call
from ..drivers import Noun


class TokenizersCalls(Noun):
    """Calls about tokenizers."""

    def create(
        self,
        *,
        content: bytes | Path,
        media_type: str = "application/json",
    ) -> shapes.TokenizerView:
        """Call ``POST /v1/tokenizers`` (scope models:write).

        Keep a tokenizer.json for sources of texts. The body is the file as the tokenizers library
        saves it. The same file sent twice is one tokenizer. Workers open it when a source is read
        with it, and refuse the source if they cannot.
        """
        return self._call(
            Call[shapes.TokenizerView](
                "POST",
                "/v1/tokenizers",
                shapes.TokenizerView,
                content=content,
                media_type=media_type,
            )
        )

    def page(
        self,
        *,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[shapes.TokenizerView]:
        """Call ``GET /v1/tokenizers`` (scope models:read).

        List the tokenizers. Return a page of the tokenizers, by digest.
        """
        return self._call(
            Call[Page[shapes.TokenizerView]](
                "GET",
                "/v1/tokenizers",
                Page[shapes.TokenizerView],
                query={"limit": limit, "cursor": cursor},
            )
        )

    def each(
        self,
        *,
        limit: int | None = None,
    ) -> Iterator[shapes.TokenizerView]:
        """Go through all pages of ``page``; ``limit``: rows per page."""
        return self._each(
            Call[Page[shapes.TokenizerView]](
                "GET", "/v1/tokenizers", Page[shapes.TokenizerView], query={"limit": limit}
            )
        )

    def get(
        self,
        digest: str,
    ) -> shapes.TokenizerView:
        """Call ``GET /v1/tokenizers/{digest}`` (scope models:read).

        Show a tokenizer. Return a tokenizer.
        """
        return self._call(
            Call[shapes.TokenizerView](
                "GET", "/v1/tokenizers/{digest}", shapes.TokenizerView, {"digest": digest}
            )
        )

    def delete(
        self,
        digest: str,
    ) -> None:
        """Call ``DELETE /v1/tokenizers/{digest}`` (scope models:write).

        Delete a tokenizer that nothing uses. 409 while a dataset is read with it, or an encoder has
        it. The file is destroyed.
        """
        return self._call(
            Call[None]("DELETE", "/v1/tokenizers/{digest}", Nothing, {"digest": digest})
        )
