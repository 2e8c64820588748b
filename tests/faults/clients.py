"""Clients that ask over HTTP while things break, and remember every answer."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.faults.fleet import Fleet
from tests.faults.kinds import Broken, Kind

PATIENCE_SECONDS = 90
PAUSE_SECONDS = 0.1


class AnotherRequest(Exception):
    """One key was answered with two requests."""

    kind = Kind.REPEATED


@dataclass
class Asked:
    """One request that the service has accepted (2xx)."""

    id: str
    rows: frozenset[int]
    status: str
    #: Whether the service has said that it is cancelled.
    cancelled: bool = False


@dataclass
class Clients:
    """Several threads; each posts when the harness hands out a permit."""

    fleet: Fleet
    seed: int
    count: int = 3
    accepted: list[Asked] = field(default_factory=list)
    tally: Counter[str] = field(default_factory=Counter)
    errors: list[Broken] = field(default_factory=list)
    _permits: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    _done: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        self._threads = [
            threading.Thread(target=self._run, args=(random.Random(f"{self.seed}/{number}"),))
            for number in range(self.count)
        ]
        for thread in self._threads:
            thread.start()

    def permit(self, count: int) -> None:
        """Let the clients ask that many times more."""
        self._permits.release(count)

    def finish(self) -> None:
        """Wait for the answers to all permits."""
        self._done.set()
        self._permits.release(self.count)
        for thread in self._threads:
            thread.join()

    def _run(self, chance: random.Random) -> None:
        while True:
            self._permits.acquire()
            if self._done.is_set():
                return
            try:
                self._ask(chance)
            except Exception as error:  # the harness reports what a client met
                words = f"{type(error).__name__}: {error}"
                self.errors.append(Broken(getattr(error, "kind", Kind.OTHER), words))

    def _ask(self, chance: random.Random) -> None:
        body, rows = self._wish(chance)
        key = uuid.UUID(int=chance.getrandbits(128)).hex
        answer = self._send("POST", "/v1/deletion-requests", body, key, chance=chance)
        made = Asked(answer["id"], frozenset(rows), answer["status"])
        with self._lock:
            self.accepted.append(made)
            self.tally["accepted"] += 1
        if chance.random() < 0.15:
            again = self._send("POST", "/v1/deletion-requests", body, key, chance=chance)
            if again["id"] != made.id:
                raise AnotherRequest(f"the key of {made.id} gave {again['id']}")
            self.tally["repeated with its key"] += 1
        if chance.random() < 0.2:
            self._cancel(made, chance)

    def _wish(self, chance: random.Random) -> tuple[dict[str, Any], list[int]]:
        digits = self.fleet.digits
        if chance.random() < 0.05:
            return {"dataset": "digits", "record_ids": [f"nobody-{chance.random()}"]}, []
        rows = chance.sample(range(len(digits.record_ids)), chance.choice([1, 1, 2, 3]))
        names = [digits.record_ids[row] for row in rows]
        return {"dataset": "digits", "record_ids": names, "reason": "a fault test"}, rows

    def _cancel(self, made: Asked, chance: random.Random) -> None:
        """At once, so that it meets the claim; either answer is right, but only one of them."""
        path = f"/v1/deletion-requests/{made.id}"
        self._send("DELETE", path, None, None, chance=chance, also=(409,))
        seen = self._send("GET", path, None, None, chance=chance)
        made.cancelled = seen["status"] == "cancelled"
        self.tally["cancelled in time" if made.cancelled else "cancelled too late"] += 1

    def _send(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        key: str | None,
        *,
        chance: random.Random,
        also: tuple[int, ...] = (),
    ) -> Any:
        """Ask until an API answers; the idempotency key makes asking again harmless."""
        headers = self.fleet.headers | ({"Idempotency-Key": key} if key else {})
        end = time.monotonic() + PATIENCE_SECONDS
        attempt = chance.randrange(len(self.fleet.ports))
        while True:
            port = self.fleet.ports[attempt % len(self.fleet.ports)]
            url = f"http://127.0.0.1:{port}{path}"
            attempt += 1
            try:
                answer = httpx.request(method, url, headers=headers, json=body, timeout=20)
            except httpx.ConnectError:
                self.tally["nobody answered"] += 1
            except httpx.TransportError:
                self.tally["answer lost"] += 1
            else:
                if answer.status_code < 400 or answer.status_code in also:
                    return answer.json()
                if answer.status_code < 500 and answer.status_code != 429:
                    raise AssertionError(f"{method} {path}: {answer.status_code} {answer.text}")
                self.tally[f"answered {answer.status_code}"] += 1
            assert time.monotonic() < end, f"{method} {path}: no answer"
            if attempt % len(self.fleet.ports) == 0:
                time.sleep(PAUSE_SECONDS)
