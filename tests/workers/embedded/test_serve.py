"""The supervisor, over real processes that tell this one over a socket what happens to them."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.errors import ServiceError
from service.settings import Settings
from workers.embedded import serve

PATIENCE_SECONDS = 60

REPORTING_PROGRAM = """
import os, signal, socket, sys
port, name = int(sys.argv[1]), sys.argv[2]
def tell(what):
    with socket.create_connection(("127.0.0.1", port)) as s:
        s.sendall(f"{what} {name} {os.getpid()}".encode())
def stop(*_):
    tell("stopped")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
tell("started")
while True:
    signal.pause()
"""


class Listener:
    """Receives what the programs send, one line at a time."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(PATIENCE_SECONDS)
        self.port: int = self._server.getsockname()[1]

    def receive(self) -> tuple[str, str, int]:
        connection, _ = self._server.accept()
        with connection:
            what, name, pid = connection.makefile().read().split()
        return what, name, int(pid)

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "ENDING_SECONDS", 0.0)
    monkeypatch.setattr(serve, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(serve, "LONGEST_PAUSE_SECONDS", 0.01)


def reporting(listener: Listener, name: str) -> serve.Program:
    command = [sys.executable, "-c", REPORTING_PROGRAM, str(listener.port), name]
    return serve.Program(name, command, stop_seconds=PATIENCE_SECONDS)


@contextmanager
def watched(supervisor: serve.Supervisor) -> Iterator[list[int]]:
    codes: list[int] = []
    supervisor.start()
    thread = threading.Thread(target=lambda: codes.append(supervisor.watch()))
    thread.start()
    try:
        yield codes
    finally:
        supervisor.ask_to_stop()
        thread.join(PATIENCE_SECONDS)


def test_programs_stop_in_order_beat_api_workers(listener: Listener) -> None:
    names = ["worker-1", "worker-2", "api", "beat"]
    supervisor = serve.Supervisor(
        [reporting(listener, n) for n in names], environment=dict(os.environ)
    )
    with watched(supervisor) as codes:
        assert sorted(listener.receive()[1] for _ in names) == sorted(names)
    stopped = [listener.receive() for _ in names]
    assert {what for what, _, _ in stopped} == {"stopped"}
    order = [name for _, name, _ in stopped]
    assert order[:2] == ["beat", "api"]
    assert sorted(order[2:]) == ["worker-1", "worker-2"]
    assert codes == [0]


def test_a_killed_program_is_started_again_however_often(listener: Listener) -> None:
    supervisor = serve.Supervisor([reporting(listener, "api")], environment=dict(os.environ))
    pids = set()
    with watched(supervisor) as codes:
        for _ in range(serve.MAX_QUICK_EXITS + 2):
            what, _, pid = listener.receive()
            assert what == "started"
            pids.add(pid)
            os.kill(pid, signal.SIGKILL)
        assert listener.receive()[0] == "started"
    assert len(pids) == serve.MAX_QUICK_EXITS + 2
    assert codes == [0]


def test_a_program_that_keeps_exiting_ends_everything_with_1(listener: Listener) -> None:
    broken = serve.Program("beat", [sys.executable, "-c", "raise SystemExit(3)"], stop_seconds=5)
    supervisor = serve.Supervisor(
        [reporting(listener, "api"), broken], environment=dict(os.environ)
    )
    supervisor.start()
    assert listener.receive()[:2] == ("started", "api")
    assert supervisor.watch() == 1
    assert listener.receive()[:2] == ("stopped", "api")


def test_a_program_that_ignores_the_stop_is_killed(listener: Listener) -> None:
    ignoring = REPORTING_PROGRAM.replace(
        "signal.signal(signal.SIGTERM, stop)", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    )
    command = [sys.executable, "-c", ignoring, str(listener.port), "worker-1"]
    program = serve.Program("worker-1", command, stop_seconds=0.2)
    supervisor = serve.Supervisor([program], environment=dict(os.environ))
    with watched(supervisor) as codes:
        _, _, pid = listener.receive()
    assert codes == [0]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_output_goes_to_one_file_per_program(tmp_path: Path) -> None:
    talking = serve.Program("api", [sys.executable, "-c", "print('hello')"], stop_seconds=5)
    supervisor = serve.Supervisor([talking], environment=dict(os.environ), logs=tmp_path / "logs")
    supervisor.start()
    assert supervisor.watch() == 1
    assert set((tmp_path / "logs" / "api.log").read_text().split()) == {"hello"}


def test_child_processes_read_the_same_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings(
        state_dir=tmp_path / "s", subject_key="x" * 20 + "y" * 20, poll_seconds=0.25, threads=1
    )
    monkeypatch.setenv("UNLEARN_STORE_DIR", "/of/the/parent/alone")
    child = serve.environment(settings)
    monkeypatch.delenv("UNLEARN_STORE_DIR")
    for name, value in child.items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings


def test_a_taken_port_is_refused_and_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert serve.run(Settings(state_dir=tmp_path), host="127.0.0.1", port=port) == 1
    assert f"127.0.0.1:{port} is taken" in capfd.readouterr().err


def test_a_state_directory_is_served_once(tmp_path: Path) -> None:
    with (
        serve._one_instance(tmp_path),
        pytest.raises(ServiceError, match="already being served"),
        serve._one_instance(tmp_path),
    ):
        pass
