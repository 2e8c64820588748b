"""An MLflow model registry over its client: register a version, move the alias, remove everything.

Each call may be repeated, and finds what an interrupted one left by the tags that it sets. No
text of a client's error is kept: it may hold an address or what a proxy answered.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from service.settings import Settings
from workers.fault_points import reach

#: Tags of registered versions and of the runs that hold their files.
VERSION_TAG, DIGEST_TAG = "unlearn.version", "unlearn.digest"

#: Seconds that a registry may take to answer, as MLflow reads it; uploads take as long as they do.
_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
#: What the client is to do, unless the environment says otherwise: ask once, as the job repeats.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
#: Reports to MLflow's makers are never sent.
_NO_TELEMETRY = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}

_PAGE = 1_000


class NotDone(Exception):
    """The registry did not do what it was asked; the message says why, in words of our own."""


class Away(NotDone):
    """It does not answer: what else is to be done there would fail, too."""


class Refused(NotDone):
    """It answered that it will not."""


@dataclass(frozen=True)
class Weights:
    """A version as the registry is to know it."""

    model: str
    version: int
    #: SHA-256 of the weights.
    digest: str

    @property
    def tags(self) -> dict[str, str]:
        """Return the tags by which it is found again."""
        return {VERSION_TAG: f"{self.model}/{self.version}", DIGEST_TAG: self.digest}


class Registry(Protocol):
    """What the job needs of a registry. Calls raise ``NotDone``."""

    def register(self, weights: Weights, file: Path) -> str:
        """Copy the file and register it; return the registry's number of the version."""

    def point(self, weights: Weights, number: str) -> None:
        """Move the alias to a registered version."""

    def remove(self, weights: Weights) -> None:
        """Destroy the version's entries and its files; nothing that its tags name is left."""

    def found(self, model: str) -> list[Weights]:
        """Return the versions of a model that the registry has entries or files of."""


def open_registry(settings: Settings) -> Registry:
    """Return the registry of the settings; raise ``Refused`` without the package."""
    os.environ.update(_NO_TELEMETRY)
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault(_TIMEOUT, f"{settings.mlflow_timeout_seconds:.0f}")
    try:
        from mlflow import MlflowClient
    except ImportError:
        raise Refused("the package mlflow-skinny is not installed beside the workers") from None
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    uri = settings.mlflow_tracking_uri
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    return MlflowRegistry(client, settings.mlflow_experiment, settings.mlflow_alias)


@dataclass
class MlflowRegistry:
    """The registry behind an ``mlflow server``; files are runs' artifacts of one experiment."""

    client: Any
    experiment: str
    alias: str

    def register(self, weights: Weights, file: Path) -> str:
        """Copy the file and register it, unless a former call did; return the number."""
        with _in_our_words():
            known = list(self._versions(weights))
            if known:
                return str(known[0].version)
            # A run without an entry is one of a call that was interrupted; how far is not known.
            self._remove_runs(weights)
            self._make_model(weights.model)
            run = self.client.create_run(
                self._experiment_id(),
                tags=weights.tags,
                run_name=f"{weights.model}-{weights.version}",
            )
            self.client.log_artifact(run.info.run_id, str(file))
            self.client.set_terminated(run.info.run_id)
        reach("registry.copied")
        with _in_our_words():
            made = self.client.create_model_version(
                weights.model,
                source=f"{run.info.artifact_uri}/{file.name}",
                run_id=run.info.run_id,
                tags=weights.tags,
                await_creation_for=0,  # it is ready at once, or removed as one that is not
            )
            return str(made.version)

    def point(self, weights: Weights, number: str) -> None:
        """Move the alias."""
        with _in_our_words():
            self.client.set_registered_model_alias(weights.model, self.alias, number)

    def remove(self, weights: Weights) -> None:
        """Delete the entries, with the alias if it points at one, then every file."""
        with _in_our_words():
            for one in self._versions(weights):
                self.client.delete_model_version(weights.model, str(one.version))
            self._remove_runs(weights)

    def found(self, model: str) -> list[Weights]:
        """Return what has our tags."""
        with _in_our_words():
            tags = [one.tags for one in self._all_versions(model)]
            # LIKE: the client's filters know no prefix of their own.
            runs = self._runs(f"tags.`{VERSION_TAG}` LIKE '{model}/%'")
            tags += [run.data.tags for run in runs if self._files(run)]
        return sorted(
            {
                Weights(model, int(number), one[DIGEST_TAG])
                for one in tags
                for name, _, number in [one.get(VERSION_TAG, "").rpartition("/")]
                if name == model and number.isdecimal() and DIGEST_TAG in one
            },
            key=lambda one: one.version,
        )

    def _make_model(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _experiment_id(self) -> str:
        found = self.client.get_experiment_by_name(self.experiment)
        if found is None:
            return str(self.client.create_experiment(self.experiment))
        return str(found.experiment_id)

    def _versions(self, weights: Weights) -> Iterator[Any]:
        return (one for one in self._all_versions(weights.model) if _is(one.tags, weights))

    def _all_versions(self, model: str) -> list[Any]:
        return _pages(self.client.search_model_versions, f"name='{model}'")

    def _runs(self, wanted: str) -> list[Any]:
        """Return runs with what is wanted, those that were deleted too: they keep their files."""
        from mlflow.entities import ViewType

        found = self.client.get_experiment_by_name(self.experiment)
        if found is None:
            return []

        def search(text: str, **page: Any) -> Any:
            ids = [found.experiment_id]
            return self.client.search_runs(ids, text, run_view_type=ViewType.ALL, **page)

        return _pages(search, wanted)

    def _remove_runs(self, weights: Weights) -> None:
        runs = self._runs(f"tags.`{VERSION_TAG}` = '{weights.tags[VERSION_TAG]}'")
        for run in runs:
            if not _is(run.data.tags, weights):
                continue
            for path in self._files(run):
                self._repository(run).delete_artifacts(path)
            if self._files(run):
                raise Refused("its files are still there after they were deleted")
            if run.info.lifecycle_stage == "active":
                self.client.delete_run(run.info.run_id)

    def _files(self, run: Any) -> list[str]:
        return [one.path for one in self._repository(run).list_artifacts()]

    def _repository(self, run: Any) -> Any:
        from mlflow.store.artifact import artifact_repository_registry as repositories

        return repositories.get_artifact_repository(
            run.info.artifact_uri, tracking_uri=self.client.tracking_uri
        )


def _is(tags: dict[str, str], weights: Weights) -> bool:
    return all(tags.get(name) == value for name, value in weights.tags.items())


def _pages(search: Any, wanted: str) -> list[Any]:
    found, token = [], None
    while True:
        page = search(wanted, max_results=_PAGE, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


class _in_our_words:  # noqa: N801  # reads as a statement
    """Raise errors of MLflow and of its connections as ``NotDone``."""

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        import requests
        from mlflow.exceptions import MlflowException, RestException

        if isinstance(error, RestException):
            raise Refused(f"it answered {error.error_code}") from None
        if isinstance(error, requests.HTTPError) and error.response is not None:
            raise Refused(f"it answered {error.response.status_code}") from None
        if isinstance(error, MlflowException):
            # The client's own: most often what it makes of a connection that failed.
            raise Away(f"it did not answer as a registry does ({error.error_code})") from None
        if isinstance(error, requests.RequestException):
            raise Away(f"it did not answer ({type(error).__name__})") from None
        if isinstance(error, Exception) and not isinstance(error, NotDone):
            # Of where it keeps files: no access to a folder or bucket, or no package for it here.
            raise Refused(f"its files cannot be reached ({type(error).__name__})") from None
