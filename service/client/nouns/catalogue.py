"""Calls about catalogue."""

# Written by `make client` from the OpenAPI document; do not edit.

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .. import shapes
from ..answers import Page
from ..calls import Call
from ..drivers import Noun


class CatalogueCalls(Noun):
    """Calls about catalogue."""

    def page_methods(
        self,
        *,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[shapes.MethodView]:
        """Call ``GET /v1/methods`` (scope models:read).

        List the unlearning methods with the schema of their options. Return a page of the methods
        that workers announced.
        """
        return self._call(
            Call[Page[shapes.MethodView]](
                "GET",
                "/v1/methods",
                Page[shapes.MethodView],
                query={"limit": limit, "cursor": cursor},
            )
        )

    def each_methods(
        self,
        *,
        limit: int | None = None,
    ) -> Iterator[shapes.MethodView]:
        """Go through all pages of ``page_methods``; ``limit``: rows per page."""
        return self._each(
            Call[Page[shapes.MethodView]](
                "GET", "/v1/methods", Page[shapes.MethodView], query={"limit": limit}
            )
        )

    def page_architectures(
        self,
        *,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[shapes.ArchitectureView]:
        """Call ``GET /v1/architectures`` (scope models:read).

        List the architectures with the schema of their parameters. Return a page of the
        architectures that workers announced.
        """
        return self._call(
            Call[Page[shapes.ArchitectureView]](
                "GET",
                "/v1/architectures",
                Page[shapes.ArchitectureView],
                query={"limit": limit, "cursor": cursor},
            )
        )

    def each_architectures(
        self,
        *,
        limit: int | None = None,
    ) -> Iterator[shapes.ArchitectureView]:
        """Go through all pages of ``page_architectures``; ``limit``: rows per page."""
        return self._each(
            Call[Page[shapes.ArchitectureView]](
                "GET", "/v1/architectures", Page[shapes.ArchitectureView], query={"limit": limit}
            )
        )

    def page_recipes(
        self,
        *,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[shapes.CapabilityView]:
        """Call ``GET /v1/recipes`` (scope models:read).

        List how models can be trained: the recipe, and installed trainers. Return the service's
        recipe, `default`, and the trainers that workers announced.
        """
        return self._call(
            Call[Page[shapes.CapabilityView]](
                "GET",
                "/v1/recipes",
                Page[shapes.CapabilityView],
                query={"limit": limit, "cursor": cursor},
            )
        )

    def each_recipes(
        self,
        *,
        limit: int | None = None,
    ) -> Iterator[shapes.CapabilityView]:
        """Go through all pages of ``page_recipes``; ``limit``: rows per page."""
        return self._each(
            Call[Page[shapes.CapabilityView]](
                "GET", "/v1/recipes", Page[shapes.CapabilityView], query={"limit": limit}
            )
        )

    def page_gates(
        self,
        *,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[shapes.GateView]:
        """Call ``GET /v1/gates`` (scope models:read).

        List the gates of the verification with the schema of their limits. Return a page of the
        gates that workers announced.
        """
        return self._call(
            Call[Page[shapes.GateView]](
                "GET", "/v1/gates", Page[shapes.GateView], query={"limit": limit, "cursor": cursor}
            )
        )

    def each_gates(
        self,
        *,
        limit: int | None = None,
    ) -> Iterator[shapes.GateView]:
        """Go through all pages of ``page_gates``; ``limit``: rows per page."""
        return self._each(
            Call[Page[shapes.GateView]](
                "GET", "/v1/gates", Page[shapes.GateView], query={"limit": limit}
            )
        )

    def page_inputs(
        self,
        *,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[shapes.InputKindView]:
        """Call ``GET /v1/inputs`` (scope models:read).

        List the kinds of input with the schema of what a source states about its rows. Return a
        page of the kinds of input that workers announced.
        """
        return self._call(
            Call[Page[shapes.InputKindView]](
                "GET",
                "/v1/inputs",
                Page[shapes.InputKindView],
                query={"limit": limit, "cursor": cursor},
            )
        )

    def each_inputs(
        self,
        *,
        limit: int | None = None,
    ) -> Iterator[shapes.InputKindView]:
        """Go through all pages of ``page_inputs``; ``limit``: rows per page."""
        return self._each(
            Call[Page[shapes.InputKindView]](
                "GET", "/v1/inputs", Page[shapes.InputKindView], query={"limit": limit}
            )
        )

    def policy_schema(
        self,
    ) -> Mapping[str, Any]:
        """Call ``GET /v1/policy-schema`` (scope models:read).

        Show the JSON schema of a policy, with the limits of every announced gate. Return the schema
        against which a model's policy is checked.
        """
        return self._call(Call[Mapping[str, Any]]("GET", "/v1/policy-schema", Mapping[str, Any]))
