"""Clients that ask over HTTP while things break, and remember every answer."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from tests.faults.fleet import Fleet
from tests.faults.kinds import Broken, Kind
from tests.faults.plan import DATASET

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
    #: Whether the service has said that it is cancelled, or that it was denied.
    cancelled: bool = False
    denied: bool = False


@dataclass
class Clients:
    """Several threads; each posts when the harness hands out a permit."""

    fleet: Fleet
    seed: int
    count: int = 3
    accepted: list[Asked] = field(default_factory=list)
    tally: Counter[str] = field(default_factory=Counter)
    errors: list[Broken] = field(default_factory=list)
    _outstanding: int = 0
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
        with self._lock:
            self._outstanding += count
        self._permits.release(count)

    def idle(self) -> bool:
        """Whether every permit has been used and answered."""
        with self._lock:
            return self._outstanding == 0

    def at_once(self, rows: list[int], *, meanwhile: Callable[[], None]) -> list[Asked]:
        """Ask for each row in a request of its own, many at the same time; what was accepted."""
        names = self.fleet.digits.record_ids
        with ThreadPoolExecutor(8) as pool:
            sent = [
                pool.submit(
                    self._post,
                    {"dataset": DATASET, "record_ids": [names[row]]},
                    [row],
                    random.Random(f"{self.seed}/{row}"),
                )
                for row in rows
            ]
            meanwhile()
            return [one.result() for one in sent]

    def ask_for(self, dataset: str, record_ids: Sequence[str], rows: Sequence[int]) -> Asked:
        """Ask for records of one dataset in one request, as any client does."""
        body = {"dataset": dataset, "record_ids": [*record_ids], "reason": "a fault test"}
        return self._post(body, [*rows], random.Random(f"{self.seed}/{dataset}/{rows}"))

    def decide(self, asked: Asked, how: Literal["approve", "deny", "cancel"]) -> None:
        """Decide on a request that waits for approval."""
        chance, path = random.Random(asked.id), f"/v1/deletion-requests/{asked.id}"
        if how == "cancel":
            self._cancel(asked, chance)
            return
        self.send("POST", f"{path}:{how}", {}, first=self._any(chance), also=(409,))
        if how == "deny":
            seen = self.send("GET", path, first=self._any(chance)).json()
            asked.denied = seen["status"] == "denied"

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
            with self._lock:
                self._outstanding -= 1

    def _ask(self, chance: random.Random) -> None:
        body, rows = self._wish(chance)
        made = self._post(body, rows, chance)
        if chance.random() < 0.2:
            self._cancel(made, chance)

    def _post(self, body: dict[str, Any], rows: list[int], chance: random.Random) -> Asked:
        """Send a request; now and then twice, one after the other or at the same time."""
        key = uuid.UUID(int=chance.getrandbits(128)).hex
        how = chance.random()
        if how < 0.1:
            with ThreadPoolExecutor(1) as twin:
                here = self._any(chance)
                other = twin.submit(self._once, body, key, here + 1)  # the other API
                answers = [self._once(body, key, here), other.result()]
            self.tally["sent twice at once"] += 1
        else:
            answers = [self._once(body, key, self._any(chance), anew=True)]
            if how < 0.25:
                answers.append(self._once(body, key, self._any(chance)))
                self.tally["repeated with its key"] += 1
        if len({one["id"] for one in answers}) > 1:
            raise AnotherRequest(f"one key gave {[one['id'] for one in answers]}")
        made = Asked(answers[0]["id"], frozenset(rows), answers[0]["status"])
        with self._lock:
            self.accepted.append(made)
            self.tally["accepted"] += 1
        return made

    def _once(self, body: dict[str, Any], key: str, first: int, *, anew: bool = False) -> Any:
        path = "/v1/deletion-requests"
        return self.send("POST", path, body, key, first=first, anew=anew).json()

    def _any(self, chance: random.Random) -> int:
        """The place of the API that is asked first."""
        return chance.randrange(len(self.fleet.ports))

    def _wish(self, chance: random.Random) -> tuple[dict[str, Any], list[int]]:
        digits = self.fleet.digits
        if chance.random() < 0.05:
            return {"dataset": DATASET, "record_ids": [f"nobody-{chance.random()}"]}, []
        if chance.random() < 0.01:
            writer = chance.choice(sorted(set(digits.subject_ids) - {"nobody"}))
            return {"subject_id": writer}, [
                row for row, one in enumerate(digits.subject_ids) if one == writer
            ]
        rows = chance.sample(range(len(digits.record_ids)), chance.choice([1, 1, 2, 3]))
        names = [digits.record_ids[row] for row in rows]
        return {"dataset": DATASET, "record_ids": names, "reason": "a fault test"}, rows

    def _cancel(self, made: Asked, chance: random.Random) -> None:
        """At once, so that it meets the claim; either answer is right, but only one of them."""
        path = f"/v1/deletion-requests/{made.id}"
        self.send("DELETE", path, first=self._any(chance), also=(409,))
        seen = self.send("GET", path, first=self._any(chance)).json()
        made.cancelled = seen["status"] == "cancelled"
        self.tally["cancelled in time" if made.cancelled else "cancelled too late"] += 1

    def send(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | bytes | None = None,
        key: str | None = None,
        *,
        first: int = 0,
        also: tuple[int, ...] = (),
        anew: bool = False,
    ) -> httpx.Response:
        """Ask until an API answers; the idempotency key makes asking again harmless.

        ``first`` is the place of the API that is asked first. Raises ``AssertionError`` for a
        refusal that is not in ``also``. If nobody else uses the key (``anew``), what was recorded
        before a connection ended is told from what never arrived.
        """
        headers = self.fleet.headers | ({"Idempotency-Key": key} if key else {})
        given: dict[str, Any] = {"json": body}
        if isinstance(body, bytes):
            given = {"content": body}
            headers["Content-Type"] = "application/octet-stream"
        end = time.monotonic() + PATIENCE_SECONDS
        attempt, lost = first, False
        while True:
            port = self.fleet.ports[attempt % len(self.fleet.ports)]
            url = f"http://127.0.0.1:{port}{path}"
            attempt += 1
            try:
                answer = self.fleet.http.request(method, url, headers=headers, **given)
            except httpx.ConnectError:
                self.tally["nobody answered"] += 1
            except httpx.TransportError:
                # Also where a server that ends closes a connection on which a request is coming.
                self.tally["connection lost"] += 1
                lost = True
            else:
                if lost and anew and "Idempotency-Replayed" in answer.headers:
                    self.tally["answer lost"] += 1
                if answer.status_code < 400 or answer.status_code in also:
                    return answer
                if not _to_repeat(answer):
                    raise AssertionError(f"{method} {path}: {answer.status_code} {answer.text}")
                self.tally[f"answered {answer.status_code}"] += 1
            assert time.monotonic() < end, f"{method} {path}: no answer"
            if attempt % len(self.fleet.ports) == 0:
                time.sleep(PAUSE_SECONDS)


def _to_repeat(answer: httpx.Response) -> bool:
    """Whether the same is to be asked again: the service is away, or says when to come back."""
    return answer.status_code >= 500 or "retry-after" in answer.headers
