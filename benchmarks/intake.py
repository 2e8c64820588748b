"""How many deletion requests an API process accepts, against an endpoint that inserts one row.

    python -m benchmarks.intake [--quick]

Both are served by uvicorn on one PostgreSQL database made for the run, and are asked in turns by
the same client. Rates depend on who else works on the machine, so ratios within a run are what is
judged, and the processor seconds per request of the servers and of PostgreSQL stand beside them.
Then the same requests go to one and to two API processes, and as a control to one and to two
processes of the bare endpoint. One process alone, with PostgreSQL and the client, keeps nearly two
cores busy, so on two cores a second one finds no processor, whatever it runs. What is judged is
therefore measured with each process held to the same share of a processor, which leaves the
machine room for two; the same without holding them stands beside it. How many cores were busy
stands beside each rate. Requests that arrive together share a commit, so there are enough
connections that each of two processes shares it among as many requests as one process does.
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
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from rich.progress import Progress
from sqlalchemy import insert, make_url

from benchmarks import bare, counters, load, results, shares
from service.ledger.database import db, schema
from service.ledger.database.identifiers import Origin
from service.ledger.database.states import DatasetStatus, VersionStatus
from service.ledger.database.tables import Dataset, Model, Record, Version
from service.ledger.registry import keys
from service.settings import Settings
from unlearning import inputs
from workers.demo.run import free_port
from workers.embedded import serve

DATASET, ROWS = "faces", 5_000
ENDPOINT = "/v1/deletion-requests"
CONNECTIONS = (16, 64)
HELD = "two processes, held"
#: Above this, the processor time per request of one process grows no smaller.
CONNECTIONS_OF_TWO = 256
#: Of a processor, for each API process: two, PostgreSQL and the client take less than two.
SHARE = 0.4


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a third of the requests")
    parser.add_argument("--postgres", default="postgresql://127.0.0.1:5432/postgres")
    asked = parser.parse_args()
    measured, targets = measure(asked.postgres, quick=asked.quick)
    results.write("intake-quick" if asked.quick else "intake", measured, targets)


def measure(server: str, *, quick: bool) -> tuple[dict[str, Any], list[results.Target]]:
    """What was measured, and the targets."""
    requests, turns = (500, 3) if quick else (1500, 5)
    measured: dict[str, Any] = {"cores": os.cpu_count()}
    with served(server) as place, Progress(console=results.console) as bar:
        ours, bare_ones = [place.first, place.second], [place.bare, place.second_bare]
        contests = [
            Contest(
                f"{connections} connections",
                connections,
                {"bare": [place.bare], "api": [place.first]},
            )
            for connections in CONNECTIONS
        ]
        contests += [
            Contest(name, CONNECTIONS_OF_TWO, {"one": both[:1], "two": both}, share)
            for name, both, share in (
                (HELD, ours, SHARE),
                ("two bare processes, held", bare_ones, SHARE),
                ("two processes", ours, None),
                ("two bare processes", bare_ones, None),
            )
        ]
        task = bar.add_task("", total=len(contests) * turns)
        for contest in contests:
            bar.update(task, description=contest.name)
            for servers in contest.sides.values():  # statements prepared, caches filled
                _rate(place, contest, servers, requests // 5)
            rounds: dict[str, list[dict[str, float]]] = {side: [] for side in contest.sides}
            for _ in range(turns):
                for side, servers in contest.sides.items():
                    rounds[side].append(_rate(place, contest, servers, requests))
                bar.advance(task)
            measured[contest.name] = _medians(rounds)
    few, many = (measured[f"{connections} connections"] for connections in CONNECTIONS)
    for name, seen in measured.items():
        if name.startswith("two "):
            busy = f"{seen['one']['cores_busy']:.1f} and {seen['two']['cores_busy']:.1f}"
            results.console.print(
                f"{name} / one: {seen['ratio']:.2f}; cores busy: {busy} of {measured['cores']}"
            )
    return measured, [
        results.at_least("rate, API / bare endpoint, 16 connections", few["ratio"], 0.6),
        results.at_least("rate, API / bare endpoint, 64 connections", many["ratio"], 0.6),
        results.at_least(
            f"rate, two API processes / one, each held to {SHARE} of a processor",
            measured[HELD]["ratio"],
            1.6,
        ),
    ]


@dataclass
class Contest:
    """Two sides that are asked in turns, each by as many connections."""

    name: str
    connections: int
    sides: dict[str, list[Process]]
    #: Of a processor, that each server may use; None: as much as there is.
    share: float | None = None


@dataclass
class Process:
    """A server: where it listens and who it is."""

    url: str
    path: str
    pid: int


@dataclass
class Place:
    """The servers on one database."""

    server: str
    database: str
    key: str
    bare: Process
    second_bare: Process
    first: Process
    second: Process


def _medians(rounds: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """The medians of both sides, and the median of the ratios of the turns (second / first)."""
    first, second = rounds.values()
    seen: dict[str, Any] = {
        side: {name: statistics.median(one[name] for one in turns) for name in turns[0]}
        for side, turns in rounds.items()
    }
    for name, whole in (("ratio", "per_second"), ("cpu_ratio", "cpu_ms")):
        seen[name] = statistics.median(
            b[whole] / a[whole] for a, b in zip(first, second, strict=True)
        )
    return seen


def _rate(
    place: Place, contest: Contest, servers: Sequence[Process], requests: int
) -> dict[str, float]:
    """Accepted requests per second, and processor milliseconds that each cost."""
    bodies = (
        {"dataset": DATASET, "record_ids": [f"r{secrets.randbelow(ROWS)}"]} for _ in range(requests)
    )
    with ExitStack() as stack:
        if contest.share is not None:
            stack.enter_context(shares.held(contest.share, [one.pid for one in servers]))
        before, client = spent(place, servers), time.process_time()
        seconds, taken, statuses = load.post_all(
            [one.url for one in servers],
            servers[0].path,
            place.key,
            bodies,
            connections=contest.connections,
        )
        client = (time.process_time() - client) * 1000 / requests
        after = spent(place, servers)
    if set(statuses) != {202}:
        raise SystemExit(f"the server answered {statuses}; every request should be accepted")
    api, database = ((b - a) * 1000 / requests for a, b in zip(before, after, strict=True))
    return {
        "per_second": requests / seconds,
        "p50_ms": statistics.median(taken) * 1000,
        "server_cpu_ms": api,
        "postgresql_cpu_ms": database,
        "cpu_ms": api + database,
        "client_cpu_ms": client,
        "cores_busy": (api + database + client) * requests / 1000 / seconds,
    }


def spent(place: Place, servers: Sequence[Process]) -> tuple[float, float]:
    """Processor seconds so far of the servers, and of PostgreSQL's sessions of the database."""
    with psycopg.connect(place.server, autocommit=True) as connection:
        sessions = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = %s", [place.database]
        ).fetchall()
    return (
        sum(counters.processor_seconds(one.pid) for one in servers),
        sum(_seconds(pid) for (pid,) in sessions),
    )


def _seconds(pid: int) -> float:
    """Processor seconds of a process of one thread; 0.0 where it is not on this machine.

    In nanoseconds: of forty sessions each does less than one of the system's ticks.
    """
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    except FileNotFoundError:
        return 0.0


@contextmanager
def served(server: str) -> Iterator[Place]:
    """A filled database, and two processes of each kind; all gone afterwards."""
    name = f"unlearn_intake_{secrets.token_hex(4)}"
    home = Path(tempfile.mkdtemp(prefix="bench-intake-"))
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    url = make_url(server).set(database=name)
    settings = Settings(
        _env_file=None,
        state_dir=home,
        database_url=url.render_as_string(hide_password=False),
        max_queue=1_000_000,
    )
    try:
        key = _fill(settings)
        ours = serve.environment(settings)
        driver = url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
        with ExitStack() as stack:
            processes = [
                stack.enter_context(_server(app, path, environment))
                for app, path, environment in (
                    *[("benchmarks.bare:create_app", bare.PATH, ours | {"BARE_DATABASE": driver})]
                    * 2,
                    ("service.main:create_app", ENDPOINT, ours),
                    ("service.main:create_app", ENDPOINT, ours),
                )
            ]
            yield Place(server, name, key, *processes)
    finally:
        shutil.rmtree(home, ignore_errors=True)
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def _fill(settings: Settings) -> str:
    """A dataset of some thousand records with a live model, and an API key."""
    engine = db.engine(settings.database)
    schema.upgrade(engine)
    now = db.now()
    with db.session_factory(engine)() as session:
        data = Dataset(
            name=DATASET,
            status=DatasetStatus.READY,
            source={"kind": "npz"},
            array_key="0" * 64,
            rows=ROWS,
            shape=[1, 8, 8],
            dtype="uint8",
            input=inputs.facts(inputs.kind("image", {}), [1, 8, 8], "uint8"),
            classes=3,
            record_id_origin=Origin.SOURCE,
            subject_id_origin=Origin.ABSENT,
            created_at=now,
            ready_at=now,
        )
        session.add(data)
        session.flush()
        records = [
            {"dataset_id": data.id, "row": n, "record_id": f"r{n}", "label": n % 3, "split": 0}
            for n in range(ROWS)
        ]
        session.execute(insert(Record), records)
        model = Model(
            name="lenet",
            dataset_id=data.id,
            architecture={"name": "mlp", "parameters": {}},
            input={"name": "image", "options": {}},
            transform={},
            recipe={},
            policy={},
            parameters={},
            tied=[],
            created_at=now,
        )
        session.add(model)
        session.flush()
        live = Version(
            model_id=model.id,
            number=1,
            status=VersionStatus.PUBLISHED,
            origin="imported",
            data_revision=0,
            data_rows=ROWS,
            digest="1" * 64,
            size_bytes=0,
            options={},
            seed=1,
            code_version="0",
            notes={},
            timings={},
            created_at=now,
            published_at=now,
        )
        session.add(live)
        session.flush()
        live.anchor_id = model.production_id = live.id
        _, key = keys.create(session, "bench", ["requests:write"], actor="bench", now=now)
        session.commit()
    engine.dispose()
    return key


@contextmanager
def _server(app: str, path: str, environment: dict[str, str]) -> Iterator[Process]:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", app, "--factory", "--port", str(port)]
    # Each writes a line per request, as it does by default, to where nobody reads it.
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_up(url, process)
        yield Process(url, path, process.pid)
    finally:
        process.terminate()
        process.wait(timeout=60)


def _wait_until_up(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(f"{url}/openapi.json", timeout=5):
                return
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                raise
            time.sleep(0.1)


if __name__ == "__main__":
    main()
