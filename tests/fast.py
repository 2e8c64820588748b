"""The fast tests: a pytest plugin that skips a test as soon as it needs more than this process.

Used by ``make test-fast`` (``pytest -p tests.fast``). No list says which tests are fast: a test is
skipped at the moment it connects to a server, opens a database, starts a process or a server, or
trains (takes an optimiser's step). A new test is a fast one as long as it does none of these and is
not marked ``seconds``.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from torch.optim import optimizer

#: Events of the interpreter (``sys.audit``) that a fast test does not cause.
LEFT_OUT = {
    "os.fork": "starts a process",
    "os.posix_spawn": "starts a process",
    "subprocess.Popen": "starts a process",
    "socket.bind": "starts a server",
    "sqlite3.connect": "opens a database",
    "socket.connect": "connects to a server",
}


def pytest_configure(config: pytest.Config) -> None:
    """Watch the tests of this process."""
    config.pluginmanager.register(_Watch(), "fast")


class _Watch:
    """Skips the running test when it does something slow, in whichever thread."""

    def __init__(self) -> None:
        self._watching = False
        self._why = ""
        signal.signal(signal.SIGUSR1, self._called)
        sys.addaudithook(self._seen)
        optimizer.register_optimizer_step_pre_hook(lambda *_: self._leave_out("trains"))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Function) -> Iterator[None]:
        """Watch the fixtures of a test."""
        with self._watched():
            # The interpreter has no event of connections to PostgreSQL.
            given = item.callspec.params.values() if hasattr(item, "callspec") else ()
            databases = [one for one in given if isinstance(one, str) and one == "postgresql"]
            if databases or "postgres_server" in item.fixturenames:
                self._leave_out("connects to a server")
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Iterator[None]:
        """Watch a test."""
        with self._watched():
            return (yield)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        self._watching = True
        try:
            yield
        finally:
            self._watching = False

    def _seen(self, event: str, _arguments: tuple[Any, ...]) -> None:
        if event in LEFT_OUT:
            self._leave_out(LEFT_OUT[event])

    def _called(self, *_: Any) -> None:
        self._leave_out(self._why)

    def _leave_out(self, why: str) -> None:
        if not self._watching:
            return
        main = threading.main_thread()
        if threading.current_thread() is main:
            self._watching = False  # nothing more is left out while the skip unwinds
        else:
            self._why = why
            signal.pthread_kill(main.ident or 0, signal.SIGUSR1)
        pytest.skip(f"fast: {why}")  # in another thread it ends that thread
