"""A real Prometheus scrapes a real API with the files of ``deploy``, and answers each panel."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from fastapi import FastAPI

from service.ledger.registry import keys
from tests.conftest import leave_out
from tests.service.api import callers, serving
from workers.demo.run import free_port

#: It starts two servers: `make test-integrations`.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

DEPLOY = Path(__file__).parents[2] / "deploy"
PROMETHEUS = shutil.which("prometheus")
SECONDS = 120.0


@pytest.fixture
def api(app: FastAPI) -> Iterator[int]:
    """The port at which the API answers."""
    with serving.served(app) as port:
        yield port


@pytest.fixture
def prometheus(app: FastAPI, api: int, tmp_path: Path) -> Iterator[httpx.Client]:
    """A client of a Prometheus that scrapes the API each second, with a key for numbers alone."""
    if PROMETHEUS is None:
        leave_out("Prometheus is not installed (Debian: apt-get install prometheus)")
    with app.state.sessions.begin() as session:
        _, token = keys.create(session, "prometheus", ["metrics:read"], actor="cli")
    secret = tmp_path / "metrics_token"
    secret.write_text(token)
    given = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    [job] = given["scrape_configs"]
    assert job["authorization"]["credentials_file"] == "/run/secrets/metrics_token"
    assert job["static_configs"] == [{"targets": ["api:8000"]}]
    given["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    job["authorization"]["credentials_file"] = str(secret)
    job["static_configs"] = [{"targets": [f"127.0.0.1:{api}"]}]
    folder = tmp_path / "prometheus"
    folder.mkdir()
    (folder / "prometheus.yml").write_text(yaml.safe_dump(given))
    for name in given["rule_files"]:
        shutil.copy(DEPLOY / name, folder / name)
    port = free_port()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [
                str(PROMETHEUS),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            _until(lambda: _scraped(client), "Prometheus has scraped the API twice")
            yield client
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_every_panel_and_alert_is_answered_from_what_is_scraped(
    app: FastAPI, prometheus: httpx.Client
) -> None:
    writer = callers.client(app, "requests:write")
    asked = writer.post("/v1/deletion-requests", json={"dataset": "plates", "record_ids": ["r0"]})
    assert asked.status_code == 202, asked.text
    gained = "rate(unlearn_audit_lines_total[5m])"
    _until(lambda: bool(_query(prometheus, gained)), "a line of the audit chain is counted")
    panels = json.loads((DEPLOY / "grafana/dashboards/unlearn.json").read_text())["panels"]
    answers = {
        panel["title"]: _query(prometheus, target["expr"])
        for panel in panels
        for target in panel["targets"]
    }
    [opened] = answers["Open requests"]
    assert float(opened["value"][1]) > 0
    assert {one["metric"]["state"] for one in answers["Open requests by state"]} >= {"accepted"}
    # The ledger of this test has something of each kind.
    assert [title for title, found in answers.items() if not found] == []
    _until(lambda: _evaluated(prometheus), "the rules are evaluated")
    groups = prometheus.get("/api/v1/rules").json()["data"]["groups"]
    rules = {rule["name"]: rule for group in groups for rule in group["rules"]}
    assert {rule.get("lastError", "") for rule in rules.values()} == {""}
    overdue = _query(prometheus, 'ALERTS{alertname="DeletionOverdue"}')
    assert [one["metric"]["alertstate"] for one in overdue] == ["firing"]


def test_a_key_without_the_scope_gives_no_numbers(app: FastAPI, api: int) -> None:
    with app.state.sessions.begin() as session:
        _, token = keys.create(session, "other", ["requests:read"], actor="cli")
    url = f"http://127.0.0.1:{api}/metrics"
    assert httpx.get(url, headers={"Authorization": f"Bearer {token}"}).status_code == 403


def _query(client: httpx.Client, expression: str) -> list[dict[str, Any]]:
    answer = client.get("/api/v1/query", params={"query": expression}).json()
    assert answer["status"] == "success", answer
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


def _scraped(client: httpx.Client) -> bool:
    """Return whether two scrapes succeeded: a rate needs two."""
    try:
        found = _query(client, "count_over_time(unlearn_http_requests_total[1m])")
    except (httpx.HTTPError, ValueError):  # it starts, and says so in words that are no JSON
        return False
    return any(float(one["value"][1]) >= 2 for one in found)


def _evaluated(client: httpx.Client) -> bool:
    return bool(_query(client, 'ALERTS{alertname="DeletionOverdue"}'))


def _until(happened: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < end, f"not within {SECONDS:.0f} s: {what}"
        time.sleep(0.1)
