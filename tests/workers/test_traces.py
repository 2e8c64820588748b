"""One trace from the call to the erased row, as a real OTLP/HTTP receiver gets it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from service import tracing
from service.ledger.registry import keys
from service.main import create_app
from tests.workers import receiver
from tests.workers.place import Place
from tests.workers.receiver import Receiver

#: From the recommendation's own example.
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with receiver.running() as made:
        made.answer = lambda _: (200, {})
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{made.port}")
        yield made
        tracing.stop()


def spans(collector: Receiver) -> list[Any]:
    """Send what is left and return every span that arrived."""
    tracing.stop()
    assert {one.path for one in collector.received} == {"/v1/traces"}
    found = []
    for one in collector.received:
        for resource in ExportTraceServiceRequest.FromString(one.body).resource_spans:
            for scope in resource.scope_spans:
                found += scope.spans
    return found


def attributes(of: Any) -> dict[str, Any]:
    return {
        one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in of.attributes
    }


def ask(town: Place, *rows: int, **headers: str) -> None:
    app = create_app(town.settings)
    with app.state.sessions.begin() as session:
        _, token = keys.create(session, f"test-{rows[0]}", ["requests:write"], actor="cli")
    # Without its lifespan, whose end would stop the traces of this process.
    client = TestClient(app, headers={"Authorization": f"Bearer {token}"})
    answer = client.post(
        "/v1/deletion-requests",
        json={"dataset": "digits", "record_ids": [f"digit-{row:04d}" for row in rows]},
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )
    assert answer.status_code == 202, answer.text
    app.state.recorder.close()
    app.state.engine.dispose()


def test_a_request_and_the_batch_that_does_it_are_one_trace(
    town: Place, collector: Receiver
) -> None:
    rows = town.training_rows()
    ask(town, *rows[:2], traceparent=f"00-{TRACE}-{PARENT}-01")
    ask(town, rows[2])
    town.work()
    found = spans(collector)
    named = {span.name: span for span in found if span.trace_id.hex() == TRACE}
    [server] = [one for one in found if one.parent_span_id.hex() == PARENT]
    assert server.name == "POST /v1/deletion-requests"
    assert attributes(server)["http.response.status_code"] == 202
    batch, compute = named["batch"], named["compute unlearn"]
    assert named["record"].trace_id == batch.trace_id == server.trace_id
    assert batch.parent_span_id == server.span_id
    assert {named[name].parent_span_id for name in ("claim", "compute unlearn", "erase")} == {
        batch.span_id
    }
    # Steps of the computation, one after the other within it.
    steps = [named[name] for name in ("load", "update", "store", "verify")]
    assert {one.parent_span_id for one in steps} == {compute.span_id}
    moments = [
        moment for one in steps for moment in (one.start_time_unix_nano, one.end_time_unix_nano)
    ]
    assert moments == sorted(moments)
    assert compute.start_time_unix_nano <= moments[0]
    assert moments[-1] <= compute.end_time_unix_nano
    # The other request has a trace of its own, to which the batch has a link.
    [other] = [one for one in found if one.name == server.name and one is not server]
    assert other.trace_id != server.trace_id
    assert [one.span_id for one in batch.links] == [server.span_id, other.span_id]
    told = attributes(batch)
    assert (told["unlearn.outcome"], told["unlearn.rows"]) == ("recorded", 3)
    events = [event.name for span in named.values() for event in span.events]
    assert {"computed", "version:promoted", "batch:completed", "records:erased"} <= set(events)
    assert events.count("batch:completed") == 1


def test_traces_name_no_record(town: Place, collector: Receiver) -> None:
    row = town.training_rows()[0]
    ask(town, row)
    town.work()
    assert spans(collector)
    assert not [one for one in collector.received if f"digit-{row:04d}".encode() in one.body]


@pytest.mark.parametrize("is_there", [False, True], ids=["no collector", "one that never answers"])
def test_nothing_waits_for_a_collector(
    town: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, is_there: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        if not is_there:
            silent.close()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        request = town.training_rows()[0]
        ask(town, request)
        assert tracing.is_on()
        town.work()
        assert town.forgotten() == [request]
        began = time.monotonic()
        tracing.stop()
        assert time.monotonic() - began < tracing.LAST_SECONDS + 2
    about = [one for one in caplog.records if one.name.startswith("opentelemetry")]
    assert len(about) <= 1


CODE = """
import sys
from service import main, tracing
main.create_app()
print(tracing.is_on(), "opentelemetry.sdk" in sys.modules)
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
