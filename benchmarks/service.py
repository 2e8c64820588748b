"""How long a deletion takes through the whole service, and how many requests the API accepts.

    python -m benchmarks.service --data FOLDER [--only embedded] [--resume]

The real API, worker and beat as separate processes, once in the embedded form (SQLite, files as
broker) and once on PostgreSQL and Redis; LeNet-5 on CIFAR-10 from the folder. The database is made
for the run and dropped after it; Redis is used under the given database number.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow.parquet as pq
from sqlalchemy import make_url

from benchmarks import load, parts, results
from benchmarks.parts import Found, Part
from benchmarks.progress import Tell
from service.ledger.database import db, schema
from service.ledger.registry import keys
from service.settings import Settings
from workers.demo.client import Client
from workers.demo.run import free_port
from workers.embedded import serve

DATASET, MODEL = "cifar10", "lenet5"
SOURCE = "cifar10-train.parquet"
EMBEDDED = "embedded"
FORMS = (EMBEDDED, "postgresql+redis")


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="CIFAR-10 folder")
    parser.add_argument("--requests", type=int, default=50, help="single-record deletions timed")
    parser.add_argument("--load", type=int, default=6000, help="requests posted for throughput")
    parser.add_argument("--connections", type=int, default=16, help="posted over so many")
    parser.add_argument("--epochs", type=int, default=5, help="of the one training")
    parser.add_argument("--postgres", default="postgresql://127.0.0.1:5432/postgres")
    parser.add_argument("--redis", default="redis://127.0.0.1:6379/14")
    parts.add_options(parser, FORMS)
    asked = parser.parse_args()
    if not (asked.data / SOURCE).exists():
        raise SystemExit(f"{asked.data / SOURCE} is not there; name its folder with --data")
    options = ("requests", "load", "connections", "epochs")
    found = parts.measure(
        "service",
        [Part(form, partial(_measured, asked, form)) for form in FORMS],
        only=asked.only,
        resume=asked.resume,
        options={name: getattr(asked, name) for name in options},
    )
    for form, one in found.items():
        results.show(f"{form}, CIFAR-10 with LeNet-5", tuple(one), [tuple(one.values())])


def _measured(asked: argparse.Namespace, form: str, tell: Tell) -> Found:
    broker = asked.redis if form != EMBEDDED else ""
    with _database(form, asked.postgres) as url:
        seen = _form(asked, url, broker, tell)
    return seen, _targets(form, seen)


def _form(asked: argparse.Namespace, url: str, broker: str, tell: Tell) -> dict[str, Any]:
    home = Path(tempfile.mkdtemp(prefix="bench-service-"))
    _identify(asked.data / SOURCE, home / "data" / SOURCE)
    settings = Settings(
        _env_file=None,
        state_dir=home,
        data_root=home / "data",
        database_url=url,
        broker_url=broker,
        max_queue=1_000_000,
    )
    engine = db.engine(settings.database)
    schema.upgrade(engine)
    with db.session_factory(engine)() as session:
        _, key = keys.create(
            session, "bench", scopes=["admin"], expires_at=None, actor="bench", now=db.now()
        )
        session.commit()
    engine.dispose()
    try:
        with served(settings) as address:
            client = Client(address, key)
            client.wait_until_up(timeout_seconds=60, alive=lambda: True)
            tell(0.0, "ingest and training")
            _publish(client, asked.epochs)
            tell(0.3, "single deletions")
            latency = _latency(client, asked.requests, lambda done: tell(0.3 + 0.5 * done))
            tell(0.8, "requests at once")
            return latency | _throughput(client, address, key, asked)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _identify(source: Path, target: Path) -> None:
    """Copy the images with ids, which the source has not, so that requests can name them."""
    table = pq.read_table(source)
    target.parent.mkdir()
    pq.write_table(table.append_column("id", [list(map(_id, range(len(table))))]), target)


def _id(row: int) -> str:
    return f"image-{row:05}"


def _publish(client: Client, epochs: int) -> None:
    client.post("/v1/datasets", {"name": DATASET, "source": {"path": SOURCE}})
    client.wait_for(
        f"/v1/datasets/{DATASET}", lambda seen: seen["status"] == "ready", timeout_seconds=180
    )
    client.post(
        "/v1/models",
        {
            "name": MODEL,
            "dataset": DATASET,
            "architecture": {"name": "lenet5"},
            "recipe": {"epochs": epochs, "batch_size": 128, "alpha": 0.0},
            "policy": {
                "max_wait_seconds": 0,
                "purge_after_seconds": 86_400,
                # Their trainings would compete with what is measured for the processor.
                "margins": {"splits": 0},
            },
        },
    )
    client.wait_for(
        f"/v1/models/{MODEL}", lambda seen: seen["status"] == "ready", timeout_seconds=60
    )
    client.post(f"/v1/models/{MODEL}/training-runs", {"seed": 1})
    client.wait_for(f"/v1/models/{MODEL}", lambda seen: seen["production"], timeout_seconds=900)
    # The first deletion waits for the anchor if it is not prepared; it is not what is measured.
    request = client.post("/v1/deletion-requests", {"dataset": DATASET, "record_ids": [_id(0)]})
    client.wait_for(
        f"/v1/deletion-requests/{request['id']}",
        lambda seen: seen["status"] == "completed",
        timeout_seconds=300,
    )


def _latency(client: Client, requests: int, advance: Callable[[float], None]) -> dict[str, Any]:
    """Seconds from the acceptance of a single-record request to its version's promotion.

    By phase: until the batch is claimed, each step of the compute process, and the rest, which is
    the transactions that record and promote the version and the messages between the processes.
    """
    seconds: list[float] = []
    phases: dict[str, list[float]] = {}
    row = 0
    while len(seconds) < requests:
        row += 1
        before = client.get(f"/v1/models/{MODEL}")["production"]
        request = client.post(
            "/v1/deletion-requests", {"dataset": DATASET, "record_ids": [_id(row)]}
        )
        client.wait_for(
            f"/v1/deletion-requests/{request['id']}",
            lambda seen: seen["status"] == "completed",
            timeout_seconds=60,
        )
        after = client.get(f"/v1/models/{MODEL}")["production"]
        if after != before:  # a record of the validation or audit split needs no new version
            version = client.get(f"/v1/models/{MODEL}/versions/{after}")
            batch = client.get(f"/v1/models/{MODEL}/batches/{version['batch']}")
            accepted, promoted = _moment(request["created_at"]), _moment(version["published_at"])
            whole = (promoted - accepted).total_seconds()
            steps = {
                "claimed": (_moment(batch["created_at"]) - accepted).total_seconds(),
                **version["timings"],
            }
            steps["recorded"] = whole - sum(steps.values())
            for name, took in steps.items():
                phases.setdefault(name, []).append(took)
            seconds.append(whole)
            advance(len(seconds) / requests)
    return {
        "promoted": len(seconds),
        "promotion_p50": statistics.median(seconds),
        "promotion_p95": float(np.quantile(seconds, 0.95)),
        **{f"{name}_p50": statistics.median(took) for name, took in phases.items()},
    }


def _throughput(
    client: Client, address: str, key: str, asked: argparse.Namespace
) -> dict[str, Any]:
    """Accepted requests per second while the worker waits for its batch to close."""
    waiting = {"policy": {"max_wait_seconds": 86_400, "max_records": 1_000_000}}
    client.patch(f"/v1/models/{MODEL}", waiting)
    bodies = (
        {"dataset": DATASET, "record_ids": [_id(row)]} for row in range(1000, 1000 + asked.load)
    )
    seconds, taken, statuses = load.post_all(
        [address], "/v1/deletion-requests", key, bodies, connections=asked.connections
    )
    if set(statuses) != {202}:
        raise SystemExit(f"the API answered {statuses}; every request should be accepted")
    return {
        "accepted": len(taken),
        "accepted_per_second": len(taken) / seconds,
        "accept_p50": statistics.median(taken),
        "accept_p99": float(np.quantile(taken, 0.99)),
    }


@contextmanager
def served(settings: Settings) -> Iterator[str]:
    """Serve the embedded form; its address."""
    port = free_port()
    log = settings.state_dir / "service.log"
    with log.open("wb") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", "workers.cli", "serve", "--port", str(port)],
            env={**os.environ, **serve.environment(settings)},
            stdout=written,
            stderr=subprocess.STDOUT,
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=60)


@contextmanager
def _database(form: str, server: str) -> Iterator[str]:
    """A fresh database on the server for the run; nothing for the embedded form."""
    if form == EMBEDDED:
        yield ""
        return
    name = f"unlearn_bench_{secrets.token_hex(4)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    try:
        yield make_url(server).set(database=name).render_as_string(hide_password=False)
    finally:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _targets(form: str, seen: Mapping[str, float]) -> list[results.Target]:
    found = [
        results.at_most(f"accepted to promoted, p50 seconds, {form}", seen["promotion_p50"], 0.6),
        results.at_most(f"verification, p50 seconds, {form}", seen["verify_p50"], 0.2),
    ]
    if form == EMBEDDED:
        return found
    return [
        *found,
        results.at_least(
            f"accepted requests per second, {form}", seen["accepted_per_second"], 300.0
        ),
        results.at_most(f"answer p99 seconds, {form}", seen["accept_p99"], 0.2),
    ]


if __name__ == "__main__":
    main()
