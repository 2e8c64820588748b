"""Judge changes by the tests that run them, in forks of one process: a pytest plugin.

    python -m pytest -p tests.mutants.forks --changes FILE --judged FILE --learnt FILE tests/...

Starting the libraries and collecting the tests takes far longer than most tests. So that is done
once, with all changes behind switches (``tests.mutants.switches``). A first fork runs each test and
puts down which changes it came by. For each change a fork then runs those tests with its switch on.
Both files get a line for each test and each change, and an interrupted run continues.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import TypeVar

import pytest

from tests.mutants.changes import Change
from tests.mutants.switches import Switches

#: A test that computes longer than this is not tried here.
LONG = 8.0
#: Of the tests that run a change, the quickest that compute no longer than this together.
TOGETHER = 60.0
#: A change that makes the tests compute this many times longer is noticed.
SLOWER = 5
#: And so is one that makes them wait without end.
WAITS = 900
_PR_SET_PDEATHSIG = 1


Line = TypeVar("Line")


@dataclass(frozen=True)
class Judged:
    """A change, what became of it, by which test, and the seconds that this took."""

    change: str
    outcome: str
    by: str
    seconds: float


@dataclass(frozen=True)
class _Learnt:
    """A test, whether it passed, the seconds that it computed, and the changes that it came by."""

    test: str
    passed: bool
    seconds: float
    ran: Sequence[int]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Say which changes to judge, and where to write to."""
    parser.addoption("--changes", type=Path, required=True, help="the changes to judge (JSON)")
    parser.addoption("--judged", type=Path, required=True, help="what became of them (JSON lines)")
    parser.addoption("--learnt", type=Path, required=True, help="what tests run (JSON lines)")
    parser.addoption(
        "--at-least", type=int, default=30, help="seconds that a change may compute (30)"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Put the changes into the program before a ``conftest.py`` imports it."""
    options = early_config.known_args_namespace
    found = [
        Change(**{**one, "path": Path(one["path"])})
        for one in json.loads(options.changes.read_text())
    ]
    switches = Switches(early_config.rootpath, found)
    switches.install()
    early_config.pluginmanager.register(_Forks(found, switches, options), "forks")


class _Forks:
    def __init__(
        self, changes: Sequence[Change], switches: Switches, options: argparse.Namespace
    ) -> None:
        self._changes = changes
        self._switches = switches
        self._learnt: Path = options.learnt
        self._judged: Path = options.judged
        self._at_least: int = options.at_least
        self._failed = ""
        self._skipped = False
        #: What setting up fixtures that several tests share came by, by their names.
        self._shared: dict[str, set[int]] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Learn what the tests run, then judge each change that has not been judged."""
        if session.config.option.collectonly or session.testsfailed:
            return False
        known = {one.test for one in read(self._learnt, _Learnt)}
        left = [one for one in session.items if one.nodeid not in known]
        if left:
            _fork(lambda: self._learn(session, left))
        learnt = sorted(read(self._learnt, _Learnt), key=lambda one: (one.seconds, one.test))
        items = {one.nodeid: one for one in session.items}
        done = {one.change for one in read(self._judged, Judged)}
        for number, change in enumerate(self._changes):
            if str(change) not in done:
                tests = [one for one in learnt if one.passed and number in one.ran]
                one = self._judge(session, number, tests, items)
                add(self._judged, one)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep which test failed, and whether one was left out."""
        if report.failed:
            self._failed = report.nodeid
        self._skipped |= report.skipped

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest
    ) -> Iterator[None]:
        """Put down what a shared fixture comes by to all tests that use it."""
        before = set(self._switches.ran)
        self._switches.ran.clear()
        try:
            return (yield)
        finally:
            if fixturedef.scope != "function":
                shared = self._shared.setdefault(fixturedef.argname, set())
                shared |= self._switches.ran
            self._switches.ran |= before

    def _learn(self, session: pytest.Session, items: Sequence[pytest.Item]) -> int:
        signal.signal(signal.SIGPROF, _too_long)
        for one, following in _pairs(items):
            self._failed, self._skipped = "", False
            self._switches.ran.clear()
            began = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, LONG)
            session.config.hook.pytest_runtest_protocol(item=one, nextitem=following)
            signal.setitimer(signal.ITIMER_PROF, 0)
            seconds = round(time.process_time() - began, 3)
            ran = self._switches.ran.union(
                *(self._shared.get(name, ()) for name in getattr(one, "fixturenames", ()))
            )
            passed = not self._failed and not self._skipped
            add(self._learnt, _Learnt(one.nodeid, passed, seconds, sorted(ran)))
            if following is None or following.path != one.path:
                self._shared.clear()
        return 0

    def _judge(
        self,
        session: pytest.Session,
        number: int,
        tests: Sequence[_Learnt],
        items: dict[str, pytest.Item],
    ) -> Judged:
        change, began = self._changes[number], time.monotonic()
        chosen, together = [], 0.0
        own = f"test_{change.path.stem}.py::"
        for one in sorted(tests, key=lambda one: own not in one.test):
            together += one.seconds
            if one.test in items and (together <= TOGETHER or not chosen):
                chosen.append(items[one.test])
        if not chosen:
            return Judged(str(change), "not run", "", 0.0)
        limit = int(SLOWER * min(together, TOGETHER)) + self._at_least
        with tempfile.TemporaryFile() as told:
            to = told.fileno()
            status = _fork(lambda: self._try(session, number, chosen, limit, to), seconds=WAITS)
            by = os.pread(to, 1000, 0).decode()
        late = status is None or status == -signal.SIGXCPU
        outcome = "timed out" if late else "killed" if status else "survived"
        return Judged(str(change), outcome, by, round(time.monotonic() - began, 1))

    def _try(
        self,
        session: pytest.Session,
        number: int,
        items: Sequence[pytest.Item],
        limit: int,
        to: int,
    ) -> int:
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
        self._switches.on, self._failed = number, ""
        for one, following in _pairs(items):
            session.config.hook.pytest_runtest_protocol(item=one, nextitem=following)
            if self._failed:
                os.write(to, self._failed.encode())
                break
        # What the fixtures hold is put away; the parent's session goes on.
        session.config.hook.pytest_sessionfinish(session=session, exitstatus=bool(self._failed))
        return bool(self._failed)


class _TooLongError(BaseException):
    """A test computes so long that it is not tried with every change."""


def _too_long(_signal: int, _frame: FrameType | None) -> None:
    raise _TooLongError


def _fork(work: Callable[[], int], *, seconds: float | None = None) -> int | None:
    """Return the exit status of a fork that does this, or None after ``seconds``."""
    process = multiprocessing.get_context("fork").Process(target=_in_fork, args=(work,))
    process.start()
    process.join(seconds)
    late = process.exitcode is None
    with contextlib.suppress(ProcessLookupError):  # what a change left running, too
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.join()
    return None if late else process.exitcode


def _in_fork(work: Callable[[], int]) -> None:
    os.setsid()  # what the tests start ends with them
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    sys.exit(work())


def _pairs(items: Sequence[pytest.Item]) -> Iterator[tuple[pytest.Item, pytest.Item | None]]:
    return zip(items, [*items[1:], None], strict=True)


def read(file: Path, kind: type[Line]) -> list[Line]:
    """Return what a file holds, none where it is absent."""
    lines = file.read_text().splitlines() if file.exists() else []
    return [kind(**json.loads(one)) for one in lines]


def add(file: Path, line: Judged | _Learnt) -> None:
    """Add a line to a file."""
    with file.open("a") as end:
        end.write(json.dumps(asdict(line)) + "\n")
