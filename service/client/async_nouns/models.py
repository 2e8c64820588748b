"""Calls about models, to be awaited."""

# Written by `make client` from the OpenAPI document; do not edit.

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal

from .. import shapes
from ..answers import Page
from ..calls import UNSET, Call, Unset
from ..drivers import AsyncNoun


class AsyncModelsCalls(AsyncNoun):
    """Calls about models, to be awaited."""

    async def create(
        self,
        *,
        name: str,
        dataset: str,
        architecture: shapes.ArchitectureGiven | Mapping[str, Any],
        transform: Unset | shapes.TransformGiven | Mapping[str, Any] = UNSET,
        recipe: Unset | Mapping[str, Any] = UNSET,
        policy: Unset | shapes.Policy | Mapping[str, Any] = UNSET,
    ) -> shapes.ModelDetail:
        """Call ``POST /v1/models`` (scope models:write).

        Create a model on a dataset that is ready. Create the model; a worker then checks that its
        architecture fits the dataset.
        """
        return await self._call(
            Call[shapes.ModelDetail](
                "POST",
                "/v1/models",
                shapes.ModelDetail,
                body={
                    "name": name,
                    "dataset": dataset,
                    "architecture": architecture,
                    "transform": transform,
                    "recipe": recipe,
                    "policy": policy,
                },
            )
        )

    async def page(
        self,
        *,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[shapes.ModelView]:
        """Call ``GET /v1/models`` (scope models:read).

        List the models. Return a page of the models.
        """
        return await self._call(
            Call[Page[shapes.ModelView]](
                "GET",
                "/v1/models",
                Page[shapes.ModelView],
                query={"limit": limit, "cursor": cursor},
            )
        )

    def each(
        self,
        *,
        limit: int | None = None,
    ) -> AsyncIterator[shapes.ModelView]:
        """Go through all pages of ``page``; ``limit``: rows per page."""
        return self._each(
            Call[Page[shapes.ModelView]](
                "GET", "/v1/models", Page[shapes.ModelView], query={"limit": limit}
            )
        )

    async def get(
        self,
        model: str,
    ) -> shapes.ModelDetail:
        """Call ``GET /v1/models/{model}`` (scope models:read).

        Show a model. Return a model with its current work.
        """
        return await self._call(
            Call[shapes.ModelDetail](
                "GET", "/v1/models/{model}", shapes.ModelDetail, {"model": model}
            )
        )

    async def change(
        self,
        model: str,
        *,
        policy: shapes.Policy | Mapping[str, Any],
    ) -> shapes.ModelDetail:
        """Call ``PATCH /v1/models/{model}`` (scope models:write).

        Change a model's unlearning policy. Change the given fields of the policy; other fields stay
        as they are.
        """
        return await self._call(
            Call[shapes.ModelDetail](
                "PATCH",
                "/v1/models/{model}",
                shapes.ModelDetail,
                {"model": model},
                body={"policy": policy},
            )
        )

    async def delete(
        self,
        model: str,
        *,
        purge: Literal["after_window", "now"] | None = None,
    ) -> shapes.ModelDetail:
        """Call ``DELETE /v1/models/{model}`` (scope models:write).

        Withdraw a model and have it destroyed. As `:withdraw`. A key without `models:promote` may
        delete a model of which nothing is live.
        """
        return await self._call(
            Call[shapes.ModelDetail](
                "DELETE",
                "/v1/models/{model}",
                shapes.ModelDetail,
                {"model": model},
                query={"purge": purge},
            )
        )

    async def run_now(
        self,
        model: str,
        *,
        method: Unset | str | None = UNSET,
        options: Unset | Mapping[str, Any] = UNSET,
    ) -> shapes.RunNowView:
        """Call ``POST /v1/models/{model}/batches:run-now`` (scope models:write).

        Close the model's next batch without waiting. Close the batch now, with the given method in
        place of the policy's.
        """
        return await self._call(
            Call[shapes.RunNowView](
                "POST",
                "/v1/models/{model}/batches:run-now",
                shapes.RunNowView,
                {"model": model},
                body={"method": method, "options": options},
            )
        )

    async def production(
        self,
        model: str,
        *,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> shapes.AliasView:
        """Call ``GET /v1/models/{model}/aliases/production`` (scope models:read).

        Show which version is live, and which were. Return the live version and a page of the alias'
        history, newest first.
        """
        return await self._call(
            Call[shapes.AliasView](
                "GET",
                "/v1/models/{model}/aliases/production",
                shapes.AliasView,
                {"model": model},
                query={"limit": limit, "cursor": cursor},
            )
        )

    async def promote(
        self,
        model: str,
        *,
        version: int,
        expected: Unset | int | None = UNSET,
        reason: Unset | str = UNSET,
    ) -> shapes.AliasView:
        """Call ``PUT /v1/models/{model}/aliases/production`` (scope models:promote).

        Make a version live, if it contains no forgotten records. Move the alias. Refused if
        `expected` is given and is not the live version.
        """
        return await self._call(
            Call[shapes.AliasView](
                "PUT",
                "/v1/models/{model}/aliases/production",
                shapes.AliasView,
                {"model": model},
                body={"version": version, "expected": expected, "reason": reason},
            )
        )

    async def page_batches(
        self,
        model: str,
        *,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[shapes.BatchView]:
        """Call ``GET /v1/models/{model}/batches`` (scope models:read).

        List the model's batches, newest first. Return a page of the model's batches.
        """
        return await self._call(
            Call[Page[shapes.BatchView]](
                "GET",
                "/v1/models/{model}/batches",
                Page[shapes.BatchView],
                {"model": model},
                query={"limit": limit, "cursor": cursor},
            )
        )

    def each_batches(
        self,
        model: str,
        *,
        limit: int | None = None,
    ) -> AsyncIterator[shapes.BatchView]:
        """Go through all pages of ``page_batches``; ``limit``: rows per page."""
        return self._each(
            Call[Page[shapes.BatchView]](
                "GET",
                "/v1/models/{model}/batches",
                Page[shapes.BatchView],
                {"model": model},
                query={"limit": limit},
            )
        )

    async def get_batch(
        self,
        model: str,
        batch: str,
    ) -> shapes.BatchDetail:
        """Call ``GET /v1/models/{model}/batches/{batch}`` (scope models:read).

        Show a batch. Return a batch with its deletion requests.
        """
        return await self._call(
            Call[shapes.BatchDetail](
                "GET",
                "/v1/models/{model}/batches/{batch}",
                shapes.BatchDetail,
                {"model": model, "batch": batch},
            )
        )

    async def withdraw(
        self,
        model: str,
        *,
        purge: Unset | Literal["after_window", "now"] = UNSET,
    ) -> shapes.ModelDetail:
        """Call ``POST /v1/models/{model}:withdraw`` (scope models:promote).

        Withdraw a model: nothing of it is served, trained or imported again. All its versions are
        withdrawn, its batches and trainings are stopped, and its open erasures are complete:
        nothing that is live holds their records. The weights are destroyed after the policy's
        window, with signed receipts. This cannot be undone.
        """
        return await self._call(
            Call[shapes.ModelDetail](
                "POST",
                "/v1/models/{model}:withdraw",
                shapes.ModelDetail,
                {"model": model},
                body={"purge": purge},
            )
        )
