"""Calls about webhooks."""

# Written by `make client` from the OpenAPI document; do not edit.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Literal

from .. import shapes
from ..answers import Nothing, Page
from ..calls import UNSET, Call, Unset
from ..drivers import Noun


class WebhooksCalls(Noun):
    """Calls about webhooks."""

    def create(
        self,
        *,
        url: str,
        description: Unset | str | None = UNSET,
        types: Unset | Sequence[shapes.EventType | str] | None = UNSET,
        scheme: Unset | shapes.Scheme | str = UNSET,
    ) -> shapes.WebhookWithSecret:
        """Call ``POST /v1/webhooks`` (scope webhooks:write).

        Add a webhook. Have a receiver be told of what happens from now on, and show its secret
        once.
        """
        return self._call(
            Call[shapes.WebhookWithSecret](
                "POST",
                "/v1/webhooks",
                shapes.WebhookWithSecret,
                body={"url": url, "description": description, "types": types, "scheme": scheme},
            )
        )

    def page(
        self,
        *,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[shapes.WebhookView]:
        """Call ``GET /v1/webhooks`` (scope webhooks:write).

        List webhooks, oldest first. Return one page; pass `next_cursor` as `cursor` for the next
        one.
        """
        return self._call(
            Call[Page[shapes.WebhookView]](
                "GET",
                "/v1/webhooks",
                Page[shapes.WebhookView],
                query={"limit": limit, "cursor": cursor},
            )
        )

    def each(
        self,
        *,
        limit: int | None = None,
    ) -> Iterator[shapes.WebhookView]:
        """Go through all pages of ``page``; ``limit``: rows per page."""
        return self._each(
            Call[Page[shapes.WebhookView]](
                "GET", "/v1/webhooks", Page[shapes.WebhookView], query={"limit": limit}
            )
        )

    def get(
        self,
        webhook_id: str,
    ) -> shapes.WebhookView:
        """Call ``GET /v1/webhooks/{webhook_id}`` (scope webhooks:write).

        One webhook. Return a webhook and how far it has come.
        """
        return self._call(
            Call[shapes.WebhookView](
                "GET", "/v1/webhooks/{webhook_id}", shapes.WebhookView, {"webhook_id": webhook_id}
            )
        )

    def change(
        self,
        webhook_id: str,
        *,
        url: Unset | str = UNSET,
        description: Unset | str | None = UNSET,
        types: Unset | Sequence[shapes.EventType | str] | None = UNSET,
        status: Unset | shapes.WebhookStatus | str = UNSET,
    ) -> shapes.WebhookView:
        """Call ``PATCH /v1/webhooks/{webhook_id}`` (scope webhooks:write).

        Change, disable or enable a webhook. Change what is given. A webhook that is enabled
        continues where it stopped.
        """
        return self._call(
            Call[shapes.WebhookView](
                "PATCH",
                "/v1/webhooks/{webhook_id}",
                shapes.WebhookView,
                {"webhook_id": webhook_id},
                body={"url": url, "description": description, "types": types, "status": status},
            )
        )

    def remove(
        self,
        webhook_id: str,
    ) -> None:
        """Call ``DELETE /v1/webhooks/{webhook_id}`` (scope webhooks:write).

        Remove a webhook. Remove the webhook with its secret and the list of its deliveries.
        """
        return self._call(
            Call[None]("DELETE", "/v1/webhooks/{webhook_id}", Nothing, {"webhook_id": webhook_id})
        )

    def page_deliveries(
        self,
        webhook_id: str,
        *,
        outcome: Literal["delivered", "failed"] | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[shapes.Delivery]:
        """Call ``GET /v1/webhooks/{webhook_id}/deliveries`` (scope webhooks:write).

        Attempts to deliver to a webhook, newest first. Return one page of the attempts of the last
        30 days.
        """
        return self._call(
            Call[Page[shapes.Delivery]](
                "GET",
                "/v1/webhooks/{webhook_id}/deliveries",
                Page[shapes.Delivery],
                {"webhook_id": webhook_id},
                query={"outcome": outcome, "limit": limit, "cursor": cursor},
            )
        )

    def each_deliveries(
        self,
        webhook_id: str,
        *,
        outcome: Literal["delivered", "failed"] | None = None,
        limit: int | None = None,
    ) -> Iterator[shapes.Delivery]:
        """Go through all pages of ``page_deliveries``; ``limit``: rows per page."""
        return self._each(
            Call[Page[shapes.Delivery]](
                "GET",
                "/v1/webhooks/{webhook_id}/deliveries",
                Page[shapes.Delivery],
                {"webhook_id": webhook_id},
                query={"outcome": outcome, "limit": limit},
            )
        )

    def rotate_secret(
        self,
        webhook_id: str,
        *,
        overlap_seconds: Unset | int = UNSET,
    ) -> shapes.WebhookWithSecret:
        """Call ``POST /v1/webhooks/{webhook_id}:rotate-secret`` (scope webhooks:write).

        Replace the secret of a webhook. Replace the secret and show the new one once. During the
        overlap every delivery has two signatures, so that a receiver may change its secret at any
        time in between.
        """
        return self._call(
            Call[shapes.WebhookWithSecret](
                "POST",
                "/v1/webhooks/{webhook_id}:rotate-secret",
                shapes.WebhookWithSecret,
                {"webhook_id": webhook_id},
                body={"overlap_seconds": overlap_seconds},
            )
        )

    def replay(
        self,
        webhook_id: str,
        *,
        after: Unset | int = UNSET,
        since: Unset | datetime = UNSET,
    ) -> shapes.WebhookView:
        """Call ``POST /v1/webhooks/{webhook_id}:replay`` (scope webhooks:write).

        Have events be told again, or skipped. Continue at another place of the audit chain: at
        once, in order, under the same event ids. An earlier place repeats events; a later one skips
        those that the receiver cannot take.
        """
        return self._call(
            Call[shapes.WebhookView](
                "POST",
                "/v1/webhooks/{webhook_id}:replay",
                shapes.WebhookView,
                {"webhook_id": webhook_id},
                body={"after": after, "since": since},
            )
        )

    def test(
        self,
        webhook_id: str,
    ) -> shapes.WebhookView:
        """Call ``POST /v1/webhooks/{webhook_id}:test`` (scope webhooks:write).

        Send a webhook an event of type unlearn.webhook.tested. Have the webhook be told of this
        call; `deliveries` shows what came of it.
        """
        return self._call(
            Call[shapes.WebhookView](
                "POST",
                "/v1/webhooks/{webhook_id}:test",
                shapes.WebhookView,
                {"webhook_id": webhook_id},
            )
        )
