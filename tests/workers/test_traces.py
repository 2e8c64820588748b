"""One trace from the call to the erased row, as a real OTLP/HTTP receiver gets it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from service import tracing
from service.ledger.registry import keys
from service.main import create_app
from tests.collector import attributes, collecting, spans
from tests.workers.place import Place
from tests.workers.receiver import Receiver

#: From the recommendation's own example.
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def collector() -> Iterator[Receiver]:
    with collecting() as made:
        yield made


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
