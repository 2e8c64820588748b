"""The demo's steps: data, training, deletions over HTTP, evaluation, the signed report."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from service.ledger.database import db, ids, schema
from service.ledger.registry import keys
from service.settings import Settings
from workers.demo import digits as demo_digits
from workers.demo.client import Client, DemoFailed
from workers.demo.digits import Digits
from workers.embedded import serve

out = Console(highlight=False)

DATASET = "digits"
MODEL = "digits-lenet5"
REFERENCE = "digits-retrained"
RECIPE = {"epochs": 25, "batch_size": 64, "alpha": 0.005}
#: All of the demo's requests must end in one batch: the first waits this long for the others.
MAX_WAIT_SECONDS = 3.0
TIMEOUT_SECONDS = 110.0
SUBJECT = "writer-3"


@dataclass
class Record:
    """What the demo did, with the seconds that each step took."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Run the block as a named step and print how long it took."""
        began = time.monotonic()
        with out.status(f"{name} …"):
            yield
        self.seconds[name] = time.monotonic() - began
        out.print(f"[green]✓[/] {name} [dim]({self.seconds[name]:.1f} s)[/]")


def embedded(state_dir: Path, *, store_url: str = "") -> None:
    """Run service and demo here, in a state directory of the demo's own; stop it at the end.

    With ``store_url`` (``s3://bucket/prefix``) its store is a new folder there, not a directory:
    two services must never share a store, since each sweeps files that it does not know.
    """
    record = Record()
    shutil.rmtree(state_dir, ignore_errors=True)
    settings = Settings(
        _env_file=None,
        state_dir=state_dir,
        database_url="",
        broker_url="",
        store_dir=None,
        store_url=store_url and f"{store_url.rstrip('/')}/{ids.new('demo')}",
        data_root=None,
        poll_seconds=0.3,
        threads=1,
    )
    with record.step("Migrate the database"):
        settings.sources.mkdir(parents=True)
        engine = db.engine(settings.database)
        schema.upgrade(engine)
        api_key = _key(engine)
    digits = demo_digits.load()
    digits.write(settings.sources / demo_digits.FILE)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with _served(settings, port) as process:
        client = Client(url, api_key)
        with record.step("Start API, worker and beat"):
            client.wait_until_up(timeout_seconds=60, alive=lambda: process.poll() is None)
        walk(client, digits, record, report_dir=state_dir)


def remote(url: str, api_key: str, *, report_dir: Path) -> None:
    """Run the same steps against a service that runs elsewhere."""
    record = Record()
    client = Client(url, api_key)
    with record.step(f"Reach {url}"):
        client.wait_until_up(timeout_seconds=60, alive=lambda: True)
    walk(client, demo_digits.load(), record, report_dir=report_dir)


def walk(client: Client, digits: Digits, record: Record, *, report_dir: Path) -> None:
    """Run all steps, from the data to a verified report; ``DemoFailed`` at the first surprise."""
    suffix = "" if not client.exists(f"/v1/datasets/{DATASET}") else f"-{ids.new('x')[-6:]}"
    dataset, model, reference = (name + suffix for name in (DATASET, MODEL, REFERENCE))
    with record.step("Ingest 1,797 handwritten digits"):
        client.post("/v1/datasets", {"name": dataset, "source": {"path": demo_digits.FILE}})
        client.wait_for(
            f"/v1/datasets/{dataset}",
            lambda seen: seen["status"] == "ready",
            failed=lambda seen: seen["status"] == "failed",
            timeout_seconds=60,
        )
    with record.step("Train LeNet-5 with gradient restriction, publish version 1"):
        described = _train(client, model, dataset)
    base = client.content(f"/v1/models/{model}/versions/1/checkpoint")
    with record.step("Forget three records and one subject with 40 records"):
        forget_rows = _delete(client, digits, dataset)
    version = client.get(f"/v1/models/{model}")["production"]
    unlearned = client.content(f"/v1/models/{model}/versions/{version}/checkpoint")
    if client.status(f"/v1/models/{model}/versions/1/checkpoint") != 409:
        raise DemoFailed("version 1 still holds the forgotten records and is still served")
    with record.step("Retrain without them, as a reference"):
        _train(client, reference, dataset)
    retrained = client.content(f"/v1/models/{reference}/versions/1/checkpoint")
    with record.step("Fetch, save and verify the signed audit report"):
        report, path = _report(client, model, version, report_dir)
    _show(digits, forget_rows, described, base, unlearned, retrained, report)
    _show_lineage(client, model, version)
    _show_seconds(record, report)
    out.print(f"\nSigned audit report: [bold]{path}[/]", soft_wrap=True)
    out.print(
        f"Check it again with: unlearn audit verify {path} --keys {path.with_name('keys.json')}",
        soft_wrap=True,
    )
    if report["measured"]["verdict"] == "failed":
        raise DemoFailed("the production version failed its verification")


def _train(client: Client, model: str, dataset: str) -> dict[str, Any]:
    client.post(
        "/v1/models",
        {
            "name": model,
            "dataset": dataset,
            "architecture": {"name": "lenet5"},
            "transform": {"scale": 1 / 16},
            "recipe": RECIPE,
            # Without margins: their four trainings would last longer than the demo.
            "policy": {"max_wait_seconds": MAX_WAIT_SECONDS, "margins": {"splits": 0}},
        },
    )
    client.wait_for(
        f"/v1/models/{model}",
        lambda seen: seen["status"] == "ready",
        failed=lambda seen: seen["status"] == "invalid",
        timeout_seconds=60,
    )
    run = client.post(f"/v1/models/{model}/training-runs", {"seed": 1})
    client.wait_for(
        f"/v1/models/{model}/training-runs/{run['id']}",
        lambda seen: seen["status"] == "completed",
        failed=lambda seen: seen["status"] == "failed",
        timeout_seconds=TIMEOUT_SECONDS,
    )
    found: dict[str, Any] = client.wait_for(
        f"/v1/models/{model}", lambda seen: seen["production"], timeout_seconds=30
    )
    return found


def _delete(client: Client, digits: Digits, dataset: str) -> np.ndarray[Any, Any]:
    singles = digits.rows(0)[:3]
    subject = np.flatnonzero(np.array(digits.subject_ids) == SUBJECT)
    accepted = [
        client.post(
            "/v1/deletion-requests", {"dataset": dataset, "record_ids": [digits.record_ids[row]]}
        )
        for row in singles
    ]
    body = {"dataset": dataset, "subject_id": SUBJECT, "reason": "erasure request"}
    once = {"Idempotency-Key": f"demo-{dataset}"}
    accepted.append(client.post("/v1/deletion-requests", body, **once))
    repeated = client.post("/v1/deletion-requests", body, **once)
    if repeated["id"] != accepted[-1]["id"]:
        raise DemoFailed("the repeat with the same Idempotency-Key made a second request")
    for request in accepted:
        client.wait_for(
            f"/v1/deletion-requests/{request['id']}",
            lambda seen: seen["status"] == "completed",
            failed=lambda seen: seen["status"] in {"needs_review", "cancelled", "no_match"},
            timeout_seconds=TIMEOUT_SECONDS,
        )
    return np.union1d(singles, subject)


def _report(
    client: Client, model: str, version: int, report_dir: Path
) -> tuple[dict[str, Any], Path]:
    report_dir.mkdir(parents=True, exist_ok=True)
    path = report_dir / f"audit-{model}-{version}.json"
    path.write_bytes(client.content(f"/v1/models/{model}/versions/{version}/audit"))
    public_keys = path.with_name("keys.json")
    public_keys.write_bytes(client.content("/.well-known/unlearning-keys.json"))
    command = ["audit", "verify", str(path), "--keys", str(public_keys)]
    checked = subprocess.run(  # noqa: S603  # our own interpreter, our own module
        [sys.executable, "-m", "workers.cli", *command], capture_output=True, text=True
    )
    if checked.returncode:
        raise DemoFailed(f"the audit report does not verify:\n{checked.stdout}{checked.stderr}")
    return client.get(f"/v1/models/{model}/versions/{version}/audit"), path


def _show(
    digits: Digits,
    forget_rows: np.ndarray[Any, Any],
    described: dict[str, Any],
    base: bytes,
    unlearned: bytes,
    retrained: bytes,
    report: dict[str, Any],
) -> None:
    from workers.demo import evaluation

    lines = evaluation.compare(
        digits,
        forget_rows,
        described,
        {"base": base, "unlearned": unlearned, "retrained": retrained},
    )
    table = Table(title=f"\nForgetting {len(forget_rows)} of {len(digits.rows(0))} training rows")
    for column in ("model", "forget", "retain", "never seen", "membership AUC [95 %]"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for line in lines:
        shares = (f"{share:.1%}" for share in (line.forget, line.retain, line.never_seen))
        auc = f"{line.auc:.3f} [{line.auc_low:.3f}, {line.auc_high:.3f}]"
        table.add_row(line.name, *shares, auc)
    out.print(table)
    gates = Table(title="\nGates of the promoted version", show_lines=False)
    for column in ("gate", "outcome", "why"):
        gates.add_column(column)
    for gate in report["measured"]["gates"]:
        gates.add_row(gate["gate"], gate["outcome"], gate["reason"])
    out.print(gates)
    out.print(f"Verdict: [bold]{report['measured']['verdict']}[/]")


def _show_lineage(client: Client, model: str, version: int) -> None:
    table = Table(title="\nLineage, newest first")
    for column in ("version", "status", "origin", "method", "records forgotten", "verdict"):
        table.add_column(column)
    for link in client.get(f"/v1/models/{model}/versions/{version}/lineage")["items"]:
        cells = (link["status"], link["origin"], link["method"] or "", str(link["records"]))
        table.add_row(str(link["number"]), *cells, link["verdict"] or "")
    out.print(table)


def _show_seconds(record: Record, report: dict[str, Any]) -> None:
    table = Table(title="\nSeconds")
    table.add_column("step")
    table.add_column("seconds", justify="right")
    for name, seconds in record.seconds.items():
        table.add_row(name, f"{seconds:.2f}")
    for name, seconds in report["done"]["timings"].items():
        table.add_row(f"  in the batch: {name}", f"{seconds:.3f}")
    out.print(table)


def _key(engine: Any) -> str:
    with db.session_factory(engine)() as session:
        _row, secret = keys.create(
            session, "demo", scopes=["admin"], expires_at=None, actor="demo", now=db.now()
        )
        session.commit()
    return secret


@contextmanager
def _served(settings: Settings, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Start the embedded service in a process of its own; stop it at the end of the block."""
    log = settings.state_dir / "service.log"
    with log.open("wb") as written:
        process = subprocess.Popen(  # noqa: S603  # our own interpreter, our own module
            [sys.executable, "-m", "workers.cli", "serve", "--port", str(port)],
            env={**os.environ, **serve.environment(settings)},
            stdout=written,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=settings.grace_seconds + 30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """Return a port of this machine on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
