"""Ask the service's API, which may be starting, be gone or answer late."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import httpx

from tests.faults.servers import until

#: How long an operator asks again, at most.
ANSWER_SECONDS = 90


class Asking:
    """Whoever asks the API on the first of ``ports`` with an operator's ``secret``."""

    http: httpx.Client
    ports: Sequence[int]
    secret: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secret}", "Connection": "close"}

    def get(self, path: str, *, port: int | None = None) -> Any:
        """A GET's JSON; None while the API does not answer with 200."""
        answer = self._get(path, port=port)
        return None if answer is None or answer.status_code != 200 else answer.json()

    def status(self, path: str) -> int | None:
        """A GET's status; None while no API answers."""
        answer = self._get(path, port=None)
        return None if answer is None else answer.status_code

    def _get(self, path: str, *, port: int | None) -> httpx.Response | None:
        url = f"http://127.0.0.1:{port or self.ports[0]}{path}"
        try:
            return self.http.get(url, headers=self.headers)
        except httpx.TransportError:
            return None

    def listed(self, path: str) -> Iterator[dict[str, Any]]:
        """Everything in a list, page after page; nothing more once the API does not answer."""
        cursor = ""
        while (page := self.get(f"{path}?limit=200{cursor}")) is not None:
            yield from page["items"]
            if page["next_cursor"] is None:
                return
            cursor = f"&cursor={page['next_cursor']}"

    def send(
        self, method: str, path: str, body: dict[str, Any], *, also: tuple[int, ...] = ()
    ) -> Any:
        """Return the JSON of an answer, once there is one: an API may still be starting.

        Raises ``AssertionError`` for a refusal that is not in ``also``.
        """
        found: list[httpx.Response] = []
        url = f"http://127.0.0.1:{self.ports[0]}{path}"

        def answered() -> bool:
            with suppress(httpx.TransportError):
                found.append(self.http.request(method, url, headers=self.headers, json=body))
            return bool(found) and found[-1].status_code < 500

        until(answered, f"{method} {path} is answered", seconds=ANSWER_SECONDS)
        answer = found[-1]
        assert answer.is_success or answer.status_code in also, answer.text
        return answer.json()
