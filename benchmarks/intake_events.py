"""How many deletion requests an API process accepts while webhooks and metrics are on.

    python -m benchmarks.intake_events [--quick]

One API process is asked in turns by the same client: alone, and while a worker's process delivers
an event for each request to a receiver on this machine and ``/metrics`` is read every second.

Judged is the rate. Client, API, PostgreSQL, deliverer and receiver share this machine's cores, so
where others work on it, too, the rate says little. Beside it stand the processor time of the API's
process for a request, the share of its rate that it would keep with a core of its own (a second
less one reading of the metrics, divided by what a request costs), the cores that each process kept
busy, and how many events were delivered while a turn lasted.
"""

from __future__ import annotations

import argparse
import http.server
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress
from sqlalchemy import func, make_url, select

from benchmarks import counters, intake, load, results
from benchmarks.intake import Place
from service.ledger.database import db
from service.ledger.database.tables import WebhookDelivery
from service.ledger.registry import keys
from service.ledger.webhooks import endpoints
from service.ledger.webhooks.destinations import Rules
from service.ledger.webhooks.sealing import Sealer
from service.settings import Settings
from workers.embedded import serve
from workers.jobs.webhooks import Sender
from workers.runtime import Runtime

CONNECTIONS = 64
SCRAPE_SECONDS = 1.0
#: Readings of the metrics in a row, of which one's processor time is the mean.
SCRAPES = 30
#: Of the rate without them.
LEAST = 0.95
#: What the delivering process prints once it delivers.
READY = "delivers"


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a third of the requests")
    parser.add_argument("--postgres", default="postgresql://127.0.0.1:5432/postgres")
    parser.add_argument("--deliver", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.deliver:
        deliver(Settings(_env_file=None))
        return
    measured, targets = measure(asked.postgres, quick=asked.quick)
    results.write("intake-events-quick" if asked.quick else "intake-events", measured, targets)


@dataclass(frozen=True)
class Turn:
    """Accepted requests per second, and processor milliseconds of the API's process for each.

    ``cores``: how many each process kept busy. PostgreSQL's also work for the deliverer, whose
    receiver is a part of it. ``scrapes``: readings of the metrics while it lasted.
    """

    per_second: float
    api_cpu_ms: float
    cores: dict[str, float]
    requests: int
    scrapes: int = 0

    def request_ms(self, scrape_seconds: float) -> float:
        """Return the API's milliseconds for each request without those of the metrics' readings.

        A turn takes longer, and has more readings, the busier the machine is.
        """
        return self.api_cpu_ms - self.scrapes * scrape_seconds * 1000 / self.requests


def measure(server: str, *, quick: bool) -> tuple[dict[str, Any], list[results.Target]]:
    """What was measured, and the target."""
    requests, turns = (500, 3) if quick else (1500, 7)
    alone: list[Turn] = []
    watched: list[Turn] = []
    delivered: list[int] = []
    with intake.served(server) as place, Progress(console=results.console) as bar:
        settings = _settings(place)
        task = bar.add_task("turns", total=turns)
        _turn(place, requests // 5)  # statements prepared, caches filled
        for _ in range(turns):
            alone.append(_turn(place, requests))
            with _delivering(settings) as deliverer, _scraping(place, settings) as scrapes:
                before = _deliveries(settings)
                watched.append(_turn(place, requests, deliverer=deliverer, scrapes=scrapes))
                delivered.append(_deliveries(settings) - before)
            bar.advance(task)
        scrape = _scrape_cpu_seconds(place, settings)
    pairs = list(zip(alone, watched, strict=True))
    ratio = statistics.median(b.per_second / a.per_second for a, b in pairs)
    cpu_ratio = statistics.median(b.request_ms(scrape) / a.api_cpu_ms for a, b in pairs)
    keeps = (1 - scrape / SCRAPE_SECONDS) / cpu_ratio
    measured = {
        "cores": os.cpu_count(),
        "requests": requests,
        "alone_per_second": statistics.median(one.per_second for one in alone),
        "watched_per_second": statistics.median(one.per_second for one in watched),
        "ratio": ratio,
        "alone_api_cpu_ms": statistics.median(one.api_cpu_ms for one in alone),
        "watched_api_cpu_ms": statistics.median(one.request_ms(scrape) for one in watched),
        "cpu_ratio": cpu_ratio,
        "scrape_cpu_ms": scrape * 1000,
        "kept_by_api": keeps,
        "alone_cores_busy": _cores(alone),
        "watched_cores_busy": _cores(watched),
        "delivered": statistics.median(delivered),
    }
    results.console.print(measured)
    return measured, [
        results.at_least(
            "rate, webhooks and metrics on / off",
            ratio,
            LEAST,
        )
    ]


def _cores(turns: Sequence[Turn]) -> dict[str, float]:
    """Return the median number of cores that each process kept busy, and that of all together."""
    found = {name: statistics.median(one.cores[name] for one in turns) for name in turns[0].cores}
    return {**found, "all": statistics.median(sum(one.cores.values()) for one in turns)}


def deliver(settings: Settings) -> None:
    """Deliver to a receiver of this process until the standard input ends."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Receiver) as receiver:
        threading.Thread(target=receiver.serve_forever, daemon=True).start()
        runtime = Runtime.make(settings)
        threading.Thread(target=_wait_for_end, args=[runtime], daemon=True).start()
        with runtime.session() as session:
            made, _ = endpoints.create(
                session,
                endpoints.New(f"http://127.0.0.1:{receiver.server_port}/"),
                rules=Rules.from_settings(settings),
                sealer=Sealer.from_settings(settings),
                actor="bench",
                now=runtime.now(),
            )
            webhook_id = made.id
        print(READY, flush=True)
        while not runtime.stop.wait(settings.poll_seconds):
            Sender(runtime).run()
        with runtime.session() as session:
            endpoints.remove(session, webhook_id, actor="bench")
        receiver.shutdown()


class _Receiver(http.server.BaseHTTPRequestHandler):
    """Accepts every event."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _wait_for_end(runtime: Runtime) -> None:
    sys.stdin.read()
    runtime.stop.set()


@contextmanager
def _delivering(settings: Settings) -> Iterator[int]:
    """Have a process deliver; yield its id."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.intake_events", "--deliver"],
        env=serve.environment(settings),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        said = process.stdout.readline().strip()
        if said != READY:
            raise SystemExit(f"the process that delivers said {said!r}")
        yield process.pid
    finally:
        process.stdin.close()
        process.wait(timeout=120)


def _metrics(place: Place, settings: Settings) -> urllib.request.Request:
    """Return a request for the metrics, with a key of its own."""
    engine = db.engine(settings.database)
    with db.session_factory(engine).begin() as session:
        _, token = keys.create(session, "prometheus", ["metrics:read"], actor="bench")
    engine.dispose()
    return urllib.request.Request(
        f"{place.first.url}/metrics", headers={"Authorization": f"Bearer {token}"}
    )


def _scrape(asked: urllib.request.Request) -> None:
    with urllib.request.urlopen(asked, timeout=30) as answer:
        answer.read()


def _scrape_cpu_seconds(place: Place, settings: Settings) -> float:
    """Return processor seconds of the API's process for one reading of the metrics."""
    asked = _metrics(place, settings)
    before = counters.processor_seconds(place.first.pid)
    for _ in range(SCRAPES):
        _scrape(asked)
    return (counters.processor_seconds(place.first.pid) - before) / SCRAPES


@contextmanager
def _scraping(place: Place, settings: Settings) -> Iterator[list[float]]:
    """Have the metrics be read; yield the moments at which they were, as they come."""
    asked = _metrics(place, settings)
    read: list[float] = []
    ended = threading.Event()

    def scrape() -> None:
        while not ended.wait(SCRAPE_SECONDS):
            _scrape(asked)
            read.append(time.monotonic())

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield read
    finally:
        ended.set()
        thread.join()


def _turn(
    place: Place, requests: int, *, deliverer: int | None = None, scrapes: Sequence[float] = ()
) -> Turn:
    """Have requests accepted by the first API process.

    ``deliverer``: id of the process that delivers; ``scrapes`` grows with each reading.
    """
    bodies = (
        {"dataset": intake.DATASET, "record_ids": [f"r{secrets.randbelow(intake.ROWS)}"]}
        for _ in range(requests)
    )
    before, read = _spent(place, deliverer), len(scrapes)
    seconds, _, statuses = load.post_all(
        [place.first.url], place.first.path, place.key, bodies, connections=CONNECTIONS
    )
    if set(statuses) != {202}:
        raise SystemExit(f"the server answered {statuses}; every request should be accepted")
    spent = {name: after - before[name] for name, after in _spent(place, deliverer).items()}
    return Turn(
        requests / seconds,
        spent["api"] * 1000 / requests,
        {name: one / seconds for name, one in spent.items()},
        requests,
        len(scrapes) - read,
    )


def _spent(place: Place, deliverer: int | None) -> dict[str, float]:
    """Return processor seconds so far; the client is this process, which also reads the metrics."""
    api, database = intake.spent(place, [place.first])
    return {
        "api": api,
        "postgresql": database,
        "client": time.process_time(),
        "deliverer": counters.processor_seconds(deliverer),
    }


def _deliveries(settings: Settings) -> int:
    engine = db.engine(settings.database)
    with db.session_factory(engine)() as session:
        found = session.scalar(select(func.count()).select_from(WebhookDelivery)) or 0
    engine.dispose()
    return found


def _settings(place: Place) -> Settings:
    """The settings of a worker on the database, that may deliver to this machine."""
    url = make_url(place.server).set(database=place.database)
    return Settings(
        _env_file=None,
        state_dir=Path(tempfile.gettempdir()) / place.database,
        database_url=url.render_as_string(hide_password=False),
        webhook_http=True,
        webhook_networks="127.0.0.1/32",
    )


if __name__ == "__main__":
    main()
