"""A client of the service for the demo; it uses HTTP alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx

POLL_SECONDS = 0.2


class DemoFailed(Exception):
    """The service did not behave as the demo expects."""


class Client:
    """The few calls of the service that the demo makes; errors end it with ``DemoFailed``."""

    def __init__(self, url: str, api_key: str) -> None:
        self._http = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {api_key}"}, timeout=30.0
        )

    def get(self, path: str) -> Any:
        """Return a resource as JSON."""
        return self._checked(self._http.get(path)).json()

    def content(self, path: str) -> bytes:
        """Return a resource as bytes."""
        return self._checked(self._http.get(path)).content

    def status(self, path: str) -> int:
        """Return the HTTP status code of a GET."""
        return self._http.get(path).status_code

    def exists(self, path: str) -> bool:
        """Return whether a GET finds the resource."""
        return self.status(path) == 200

    def post(self, path: str, body: dict[str, Any], **headers: str) -> Any:
        """Send a POST and return its answer as JSON."""
        return self._checked(self._http.post(path, json=body, headers=headers)).json()

    def patch(self, path: str, body: dict[str, Any]) -> Any:
        """Send a PATCH and return its answer as JSON."""
        return self._checked(self._http.patch(path, json=body)).json()

    def wait_until_up(self, *, timeout_seconds: float, alive: Callable[[], bool]) -> None:
        """Wait for the API to answer, as long as ``alive`` returns True."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            if not alive():
                raise DemoFailed("the service ended before it was up; see its logs")
            try:
                if self._http.get("/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(POLL_SECONDS)
        raise DemoFailed(f"the API did not answer within {timeout_seconds:.0f} s")

    def wait_for(
        self,
        path: str,
        done: Callable[[Any], bool],
        *,
        timeout_seconds: float,
        failed: Callable[[Any], bool] = lambda _seen: False,
        watch: Callable[[Any], None] = lambda _seen: None,
    ) -> Any:
        """Poll the resource until ``done`` returns True for it, and return it."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            seen = self.get(path)
            watch(seen)
            if failed(seen):
                raise DemoFailed(f"{path}: {seen.get('status')}: {seen.get('error') or seen}")
            if done(seen):
                return seen
            time.sleep(POLL_SECONDS)
        raise DemoFailed(f"{path} was not ready after {timeout_seconds:.0f} s")

    def _checked(self, response: httpx.Response) -> httpx.Response:
        if response.is_error:
            raise DemoFailed(
                f"{response.request.method} {response.request.url.path} answered "
                f"{response.status_code}: {response.text[:500]}"
            )
        return response
