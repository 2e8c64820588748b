"""Calls about health, to be awaited."""

# Written by `make client` from the OpenAPI document; do not edit.

from __future__ import annotations

from .. import shapes
from ..answers import Text
from ..calls import Call
from ..drivers import AsyncNoun


class AsyncHealthCalls(AsyncNoun):
    """Calls about health, to be awaited."""

    async def live(
        self,
    ) -> shapes.Health:
        """Call ``GET /healthz`` (no API key).

        The process is up. Answer without checking anything else.
        """
        return await self._call(Call[shapes.Health]("GET", "/healthz", shapes.Health))

    async def ready(
        self,
    ) -> shapes.Readiness:
        """Call ``GET /readyz`` (no API key).

        Deletions can be recorded and carried out. Check the database and its schema, the broker,
        the store, and that a worker is live. 503 if a deletion lacks something: `database`,
        `worker` and `store` in the problem say what, and the detail says what still works. An
        unreachable broker is shown and does no harm. It answers within five seconds.
        """
        return await self._call(Call[shapes.Readiness]("GET", "/readyz", shapes.Readiness))

    async def metrics(
        self,
    ) -> str:
        """Call ``GET /metrics`` (scope metrics:read).

        Numbers for Prometheus. Return the ledger's numbers as of now, and this process's counts of
        HTTP requests and lines. In OpenMetrics if the client accepts it, else in Prometheus's text
        format. Counts, ages and sizes only: no label names a client, a request, a record or a
        subject.
        """
        return await self._call(Call[str]("GET", "/metrics", Text))
