"""The client that is awaited, written as its twin is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from . import checkpoints, shapes, waits
from .async_nouns import (
    audit,
    catalogue,
    datasets,
    encoders,
    health,
    models,
    requests,
    runs,
    tokenizers,
    versions,
    webhooks,
)
from .checkpoints import Downloaded
from .connection import TIMEOUT_SECONDS, options
from .drivers import AsyncDriver
from .retries import Retries
from .waiting import until_ended


class AsyncRequests(requests.AsyncRequestsCalls):
    """Deletion requests."""

    async def wait(
        self,
        request_id: str,
        *,
        timeout_seconds: float | None = None,
        watch: Callable[[shapes.DeletionRequestDetail], None] | None = None,
    ) -> shapes.DeletionRequestDetail:
        """Wait until a request is completed, by default until its due date.

        ``watch`` is called with each state that is seen. Raise ``EndedOtherwise`` for a request
        that was cancelled or denied or needs review, and ``StillOpen`` when the time is over.
        """
        return await self._driver.run(
            until_ended(
                waits.request(request_id),
                self._driver.retries,
                timeout_seconds=timeout_seconds,
                watch=watch,
            )
        )


class AsyncDatasets(datasets.AsyncDatasetsCalls):
    """Datasets, appends, inspections and record lists."""

    async def wait(
        self, dataset: str, *, timeout_seconds: float | None = None
    ) -> shapes.DatasetDetail:
        """Wait until a dataset is ready."""
        return await self._driver.run(
            until_ended(
                waits.dataset(dataset), self._driver.retries, timeout_seconds=timeout_seconds
            )
        )

    async def wait_for_append(
        self, dataset: str, append: str, *, timeout_seconds: float | None = None
    ) -> shapes.AppendView:
        """Wait until rows have joined a dataset."""
        return await self._driver.run(
            until_ended(
                waits.append(dataset, append), self._driver.retries, timeout_seconds=timeout_seconds
            )
        )

    async def wait_for_inspection(
        self, inspection: str, *, timeout_seconds: float | None = None
    ) -> shapes.InspectionView:
        """Wait until a dry run is done."""
        return await self._driver.run(
            until_ended(
                waits.inspection(inspection), self._driver.retries, timeout_seconds=timeout_seconds
            )
        )


class AsyncModels(models.AsyncModelsCalls):
    """Models, their batches, and what is live of them."""

    async def wait(self, model: str, *, timeout_seconds: float | None = None) -> shapes.ModelDetail:
        """Wait until a worker has checked a new model."""
        return await self._driver.run(
            until_ended(waits.model(model), self._driver.retries, timeout_seconds=timeout_seconds)
        )

    async def download_production(self, model: str, target: Path | str) -> Downloaded:
        """Download the checkpoint that is live to ``target``, unless it is there already.

        The file is checked and replaced at once. Raise ``NothingLive`` if the model has no
        production version any more: a copy must not be served then.
        """
        return await self._driver.run(
            checkpoints.production(model, Path(target), self._driver.retries)
        )

    async def follow_production(
        self, model: str, target: Path | str, *, every_seconds: float = 30.0
    ) -> AsyncIterator[Downloaded]:
        """Yield the checkpoint that is live, and again whenever ``target`` was replaced.

        Look every so many seconds; end with ``NothingLive`` as ``download_production`` does.
        """
        yield await self.download_production(model, target)
        while True:
            await self._driver.pause(every_seconds)
            found = await self.download_production(model, target)
            if found.changed:
                yield found


class AsyncVersions(versions.AsyncVersionsCalls):
    """Versions of models."""

    async def wait(
        self, model: str, number: int, *, timeout_seconds: float | None = None
    ) -> shapes.VersionView:
        """Wait until an imported version has been measured."""
        return await self._driver.run(
            until_ended(
                waits.version(model, number), self._driver.retries, timeout_seconds=timeout_seconds
            )
        )

    async def download(self, model: str, number: int, target: Path | str) -> Downloaded:
        """Download a version's checkpoint to ``target``, unless it is there already.

        Raise ``Withdrawn`` for a version that is not served any more, and ``Conflict`` for one
        that still contains forgotten records.
        """
        return await self._driver.run(
            checkpoints.version(model, number, Path(target), self._driver.retries)
        )


class AsyncRuns(runs.AsyncRunsCalls):
    """Training runs."""

    async def wait(
        self,
        model: str,
        run: str,
        *,
        timeout_seconds: float | None = None,
        watch: Callable[[shapes.RunDetail], None] | None = None,
    ) -> shapes.RunDetail:
        """Wait until a training run is completed; ``watch`` is called with each state seen."""
        return await self._driver.run(
            until_ended(
                waits.run(model, run),
                self._driver.retries,
                timeout_seconds=timeout_seconds,
                watch=watch,
            )
        )


class AsyncClient:
    """A client of the service whose calls are awaited, on asyncio or trio.

    ``url``: where the service is, without a path. ``transport`` replaces how bytes are sent.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        retries: Retries | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(
            **options(url, api_key, timeout_seconds), transport=transport
        )
        driver = AsyncDriver(self._http, retries or Retries())
        self.requests = AsyncRequests(driver)
        self.datasets = AsyncDatasets(driver)
        self.models = AsyncModels(driver)
        self.versions = AsyncVersions(driver)
        self.runs = AsyncRuns(driver)
        self.webhooks = webhooks.AsyncWebhooksCalls(driver)
        self.tokenizers = tokenizers.AsyncTokenizersCalls(driver)
        self.encoders = encoders.AsyncEncodersCalls(driver)
        self.catalogue = catalogue.AsyncCatalogueCalls(driver)
        self.audit = audit.AsyncAuditCalls(driver)
        self.health = health.AsyncHealthCalls(driver)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
