"""The client that waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from . import checkpoints, shapes, waits
from .checkpoints import Downloaded
from .connection import TIMEOUT_SECONDS, options
from .drivers import Driver
from .nouns import (
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
from .retries import Retries
from .waiting import until_ended


class Requests(requests.RequestsCalls):
    """Deletion requests."""

    def wait(
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
        return self._driver.run(
            until_ended(
                waits.request(request_id),
                self._driver.retries,
                timeout_seconds=timeout_seconds,
                watch=watch,
            )
        )


class Datasets(datasets.DatasetsCalls):
    """Datasets, appends, inspections and record lists."""

    def wait(self, dataset: str, *, timeout_seconds: float | None = None) -> shapes.DatasetDetail:
        """Wait until a dataset is ready."""
        return self._driver.run(
            until_ended(
                waits.dataset(dataset), self._driver.retries, timeout_seconds=timeout_seconds
            )
        )

    def wait_for_append(
        self, dataset: str, append: str, *, timeout_seconds: float | None = None
    ) -> shapes.AppendView:
        """Wait until rows have joined a dataset."""
        return self._driver.run(
            until_ended(
                waits.append(dataset, append), self._driver.retries, timeout_seconds=timeout_seconds
            )
        )

    def wait_for_inspection(
        self, inspection: str, *, timeout_seconds: float | None = None
    ) -> shapes.InspectionView:
        """Wait until a dry run is done."""
        return self._driver.run(
            until_ended(
                waits.inspection(inspection), self._driver.retries, timeout_seconds=timeout_seconds
            )
        )


class Models(models.ModelsCalls):
    """Models, their batches, and what is live of them."""

    def wait(self, model: str, *, timeout_seconds: float | None = None) -> shapes.ModelDetail:
        """Wait until a worker has checked a new model."""
        return self._driver.run(
            until_ended(waits.model(model), self._driver.retries, timeout_seconds=timeout_seconds)
        )

    def download_production(self, model: str, target: Path | str) -> Downloaded:
        """Download the checkpoint that is live to ``target``, unless it is there already.

        The file is checked and replaced at once. Raise ``NothingLive`` if the model has no
        production version any more: a copy must not be served then.
        """
        return self._driver.run(checkpoints.production(model, Path(target), self._driver.retries))

    def follow_production(
        self, model: str, target: Path | str, *, every_seconds: float = 30.0
    ) -> Iterator[Downloaded]:
        """Yield the checkpoint that is live, and again whenever ``target`` was replaced.

        Look every so many seconds; end with ``NothingLive`` as ``download_production`` does.
        """
        yield self.download_production(model, target)
        while True:
            self._driver.pause(every_seconds)
            found = self.download_production(model, target)
            if found.changed:
                yield found


class Versions(versions.VersionsCalls):
    """Versions of models."""

    def wait(
        self, model: str, number: int, *, timeout_seconds: float | None = None
    ) -> shapes.VersionView:
        """Wait until an imported version has been measured."""
        return self._driver.run(
            until_ended(
                waits.version(model, number), self._driver.retries, timeout_seconds=timeout_seconds
            )
        )

    def download(self, model: str, number: int, target: Path | str) -> Downloaded:
        """Download a version's checkpoint to ``target``, unless it is there already.

        Raise ``Withdrawn`` for a version that is not served any more, and ``Conflict`` for one
        that still contains forgotten records.
        """
        return self._driver.run(
            checkpoints.version(model, number, Path(target), self._driver.retries)
        )


class Runs(runs.RunsCalls):
    """Training runs."""

    def wait(
        self,
        model: str,
        run: str,
        *,
        timeout_seconds: float | None = None,
        watch: Callable[[shapes.RunDetail], None] | None = None,
    ) -> shapes.RunDetail:
        """Wait until a training run is completed; ``watch`` is called with each state seen."""
        return self._driver.run(
            until_ended(
                waits.run(model, run),
                self._driver.retries,
                timeout_seconds=timeout_seconds,
                watch=watch,
            )
        )


class Client:
    """A client of the service that waits for each answer; one may be shared by threads.

    ``url``: where the service is, without a path. ``transport`` replaces how bytes are sent.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        retries: Retries | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = httpx.Client(**options(url, api_key, timeout_seconds), transport=transport)
        driver = Driver(self._http, retries or Retries())
        self.requests = Requests(driver)
        self.datasets = Datasets(driver)
        self.models = Models(driver)
        self.versions = Versions(driver)
        self.runs = Runs(driver)
        self.webhooks = webhooks.WebhooksCalls(driver)
        self.tokenizers = tokenizers.TokenizersCalls(driver)
        self.encoders = encoders.EncodersCalls(driver)
        self.catalogue = catalogue.CatalogueCalls(driver)
        self.audit = audit.AuditCalls(driver)
        self.health = health.HealthCalls(driver)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
