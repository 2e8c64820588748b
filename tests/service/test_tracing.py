"""Spans are made if a collector is named, and say nothing that a client sent."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from sqlalchemy import Engine

from service import logs, tracing
from service.main import create_app
from tests.collector import attributes, collecting, spans
from tests.service.api import callers
from tests.workers.receiver import Receiver


@pytest.fixture
def collector() -> Iterator[Receiver]:
    with collecting() as made:
        yield made


@pytest.fixture
def app(sqlite_database: Engine, tmp_path: Path, collector: Receiver) -> FastAPI:
    return create_app(callers.settings_on(sqlite_database, tmp_path / "state"))


def test_a_call_is_a_span_with_the_template_of_its_path(app: FastAPI, collector: Receiver) -> None:
    client = callers.client(app)
    secret = "anna-4711"
    client.get(f"/v1/deletion-requests/{secret}?who={secret}")
    client.get(f"/{secret}")
    client.request(secret, "/v1/models")
    [invalid, unknown, odd] = spans(collector)
    assert invalid.name.startswith("GET /v1/deletion-requests/{")
    assert attributes(invalid)["http.response.status_code"] == 422
    assert unknown.name == "GET (no such path)"
    assert attributes(odd)["http.request.method"] == "_OTHER"
    assert not [one for one in collector.received if secret.encode() in one.body]


def test_health_checks_have_no_span(app: FastAPI, collector: Receiver) -> None:
    assert callers.client(app).get("/healthz").status_code == 200
    assert spans(collector) == []


def test_lines_and_stored_requests_name_the_trace(collector: Receiver) -> None:
    tracing.start("test")
    with tracing.span("outer"), logs.about(request_id="call-4711"):
        here = logs.Origin.here()
    [outer] = spans(collector)
    assert here.names() == {"request_id": "call-4711", "trace_id": outer.trace_id.hex()}
    assert here.traceparent is not None
    assert here.traceparent.startswith(f"00-{outer.trace_id.hex()}-{outer.span_id.hex()}-")
    assert tracing.leading([NOT_RECORDED, here.traceparent]) == here.traceparent
    assert logs.Origin.here() == logs.Origin()


def test_an_error_marks_the_span_with_its_class_alone(collector: Receiver) -> None:
    tracing.start("test")
    with pytest.raises(ValueError, match="anna"), tracing.span("failing"):
        raise ValueError("anna-4711")
    [failing] = spans(collector)
    assert failing.status.message == "ValueError"
    assert b"anna-4711" not in collector.received[0].body


@pytest.mark.parametrize(("out", "flags"), [("00", "01"), ("02", "03"), ("00", "03")])
def test_the_recorded_trace_is_continued(out: str, flags: str) -> None:
    left_out, recorded = f"00-{'1' * 32}-{'1' * 16}-{out}", f"00-{'2' * 32}-{'2' * 16}-{flags}"
    assert tracing.leading([left_out, recorded]) == recorded
    assert tracing.leading([left_out]) == left_out
    assert tracing.leading([]) is None


NOT_RECORDED = f"00-{'1' * 32}-{'1' * 16}-00"

CODE = """
import sys
from service import main, tracing
main.create_app()
# The SDK itself is imported by redis where it is installed.
print(tracing.is_on(), "opentelemetry.exporter" in sys.modules)
"""
WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in ("opentelemetry.sdk", "opentelemetry.exporter"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""


def _run(code: str, folder: Path, **environment: str) -> tuple[str, str]:
    known = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=known | {"UNLEARN_STATE_DIR": str(folder)} | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


def test_nothing_is_imported_unless_a_collector_is_named(tmp_path: Path) -> None:
    shown, _ = _run(CODE, tmp_path)
    assert shown == "False False"


def test_a_missing_package_is_one_line_and_no_failure(tmp_path: Path) -> None:
    shown, said = _run(WITHOUT + CODE, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    assert shown == "False False"
    [line] = [one for one in said.splitlines() if "no traces" in one]
    assert "unlearn[otel]" in line


def test_threads_of_a_client_that_sends_no_context_begin_traces_of_their_own(
    collector: Receiver,
) -> None:
    tracing.start("test")

    def work(name: str, parent: str | None) -> None:
        with tracing.span(name, parent=parent):
            pass

    for name, parent in (("none", None), ("senseless", "00-xyz"), ("zeros", f"00-{'0' * 32}-1-01")):
        thread = threading.Thread(target=work, args=(name, parent))
        thread.start()
        thread.join()
    found = spans(collector)
    assert {one.name for one in found} == {"none", "senseless", "zeros"}
    assert len({one.trace_id for one in found}) == 3
    assert not any(one.parent_span_id for one in found)
