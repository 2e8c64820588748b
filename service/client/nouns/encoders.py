"""Calls about encoders."""

# Written by `make client` from the OpenAPI document; do not edit.

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .. import shapes
from ..answers import Nothing, Page
from ..calls import Call
from ..drivers import Noun


class EncodersCalls(Noun):
    """Calls about encoders."""

    def create(
        self,
        *,
        name: str,
        source: shapes.DirectoryGiven | Mapping[str, Any],
        statement: str,
    ) -> shapes.EncoderView:
        """Call ``POST /v1/encoders`` (scope models:write).

        Add an encoder that was trained elsewhere; a worker checks its files. The directory is in
        the form of the Hugging Face hub: config.json, model.safetensors and tokenizer.json, or
        preprocessor_config.json. No code and no pickle is read, and nothing is fetched.
        """
        return self._call(
            Call[shapes.EncoderView](
                "POST",
                "/v1/encoders",
                shapes.EncoderView,
                body={"name": name, "source": source, "statement": statement},
            )
        )

    def page(
        self,
        *,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[shapes.EncoderView]:
        """Call ``GET /v1/encoders`` (scope models:read).

        List the encoders. Return a page of the encoders, by name.
        """
        return self._call(
            Call[Page[shapes.EncoderView]](
                "GET",
                "/v1/encoders",
                Page[shapes.EncoderView],
                query={"limit": limit, "cursor": cursor},
            )
        )

    def each(
        self,
        *,
        limit: int | None = None,
    ) -> Iterator[shapes.EncoderView]:
        """Go through all pages of ``page``; ``limit``: rows per page."""
        return self._each(
            Call[Page[shapes.EncoderView]](
                "GET", "/v1/encoders", Page[shapes.EncoderView], query={"limit": limit}
            )
        )

    def get(
        self,
        encoder: str,
    ) -> shapes.EncoderView:
        """Call ``GET /v1/encoders/{encoder}`` (scope models:read).

        Show an encoder, and how far its check is. Return an encoder.
        """
        return self._call(
            Call[shapes.EncoderView](
                "GET", "/v1/encoders/{encoder}", shapes.EncoderView, {"encoder": encoder}
            )
        )

    def delete(
        self,
        encoder: str,
    ) -> None:
        """Call ``DELETE /v1/encoders/{encoder}`` (scope models:write).

        Delete an encoder that nothing uses. 409 while a model that is not withdrawn is built on it,
        or a dataset holds features of it. Its files are destroyed; its tokenizer stays, see DELETE
        /v1/tokenizers/{digest}.
        """
        return self._call(
            Call[None]("DELETE", "/v1/encoders/{encoder}", Nothing, {"encoder": encoder})
        )
