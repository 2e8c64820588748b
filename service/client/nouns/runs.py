"""Calls about runs."""

# Written by `make client` from the OpenAPI document; do not edit.

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from .. import shapes
from ..answers import Page
from ..calls import UNSET, Call, Unset
from ..drivers import Noun


class RunsCalls(Noun):
    """Calls about runs."""

    def create(
        self,
        model: str,
        *,
        reason: Unset | Literal["initial", "request", "consolidate"] | None = UNSET,
        seed: Unset | int | None = UNSET,
        data_revision: Unset | int | None = UNSET,
    ) -> shapes.RunDetail:
        """Call ``POST /v1/models/{model}/training-runs`` (scope models:write).

        Queue a new training of the model; a worker runs it. Queue a training run on the records
        that are allowed when it starts. With `data_revision`, on those that the dataset had at this
        revision already.
        """
        return self._call(
            Call[shapes.RunDetail](
                "POST",
                "/v1/models/{model}/training-runs",
                shapes.RunDetail,
                {"model": model},
                body={"reason": reason, "seed": seed, "data_revision": data_revision},
            )
        )

    def page(
        self,
        model: str,
        *,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[shapes.RunView]:
        """Call ``GET /v1/models/{model}/training-runs`` (scope models:read).

        List the model's training runs, newest first. Return a page of the model's training runs.
        """
        return self._call(
            Call[Page[shapes.RunView]](
                "GET",
                "/v1/models/{model}/training-runs",
                Page[shapes.RunView],
                {"model": model},
                query={"limit": limit, "cursor": cursor},
            )
        )

    def each(
        self,
        model: str,
        *,
        limit: int | None = None,
    ) -> Iterator[shapes.RunView]:
        """Go through all pages of ``page``; ``limit``: rows per page."""
        return self._each(
            Call[Page[shapes.RunView]](
                "GET",
                "/v1/models/{model}/training-runs",
                Page[shapes.RunView],
                {"model": model},
                query={"limit": limit},
            )
        )

    def get(
        self,
        model: str,
        run: str,
    ) -> shapes.RunDetail:
        """Call ``GET /v1/models/{model}/training-runs/{run}`` (scope models:read).

        Show a training run, how far it is, and its losses and accuracy by epoch. Return a training
        run with its progress, and the results that the key may read.
        """
        return self._call(
            Call[shapes.RunDetail](
                "GET",
                "/v1/models/{model}/training-runs/{run}",
                shapes.RunDetail,
                {"model": model, "run": run},
            )
        )

    def cancel(
        self,
        model: str,
        run: str,
    ) -> shapes.RunDetail:
        """Call ``POST /v1/models/{model}/training-runs/{run}:cancel`` (scope models:write).

        Cancel a training run that waits or trains. Cancel the run; a training stops within seconds
        and its kept state is destroyed.
        """
        return self._call(
            Call[shapes.RunDetail](
                "POST",
                "/v1/models/{model}/training-runs/{run}:cancel",
                shapes.RunDetail,
                {"model": model, "run": run},
            )
        )
