"""Learn which tests run which lines: a pytest plugin.

    python -m pytest -p tests.mutants.reach --reach FILE --reach-of FOLDER ... tests/...

The file then has, for each source file below the folders, the tests that ran each of its lines, and
the seconds that each test took. What runs in further processes is not seen.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import coverage
import pytest


@dataclass(frozen=True)
class Reach:
    """Tests by file and line, and the seconds of each."""

    lines: Mapping[str, Mapping[int, Sequence[str]]]
    seconds: Mapping[str, float]

    @classmethod
    def read(cls, file: Path) -> Reach:
        """Return what the plugin wrote."""
        read = json.loads(file.read_text())
        names = list(read["seconds"])
        lines = {
            path: {int(line): [names[one] for one in tests] for line, tests in found.items()}
            for path, found in read["lines"].items()
        }
        return cls(lines, read["seconds"])

    def tests(self, path: Path, line: int) -> list[str]:
        """Return the tests that ran a line, the quickest first."""
        found = self.lines.get(path.as_posix(), {}).get(line, ())
        return sorted(found, key=lambda one: (self.seconds[one], one))

    def knows(self, file: Path) -> bool:
        """Return whether tests of a file were watched."""
        return any(one.startswith(f"{file.as_posix()}::") for one in self.seconds)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Say where to write to, and what to look at."""
    parser.addoption("--reach", type=Path, required=True, help="the file to write")
    parser.addoption("--reach-of", nargs="+", default=["."], help="folders of the source")


def pytest_configure(config: pytest.Config) -> None:
    """Watch from here on: what importing runs is no test's."""
    watch = _Watch(config.rootpath, config.getoption("reach"), config.getoption("reach_of"))
    config.pluginmanager.register(watch, "reach")


class _Watch:
    def __init__(self, root: Path, file: Path, folders: Sequence[str]) -> None:
        self._root = root
        self._file = file
        self._seconds: dict[str, float] = {}
        self._coverage = coverage.Coverage(
            data_file=None, config_file=False, include=[f"{root / folder}/*" for folder in folders]
        )
        self._coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Put down what runs now to this test."""
        began = time.monotonic()
        self._coverage.switch_context(item.nodeid)
        try:
            return (yield)
        finally:
            self._coverage.switch_context("")
            self._seconds[item.nodeid] = round(time.monotonic() - began, 3)

    def pytest_sessionfinish(self) -> None:
        """Write the file."""
        self._coverage.stop()
        data = self._coverage.get_data()
        numbers = {name: number for number, name in enumerate(self._seconds)}
        lines = {
            Path(path).relative_to(self._root).as_posix(): {
                line: sorted(numbers[name] for name in names if name in numbers)
                for line, names in data.contexts_by_lineno(path).items()
                if any(name in numbers for name in names)
            }
            for path in data.measured_files()
        }
        self._file.write_text(json.dumps({"seconds": self._seconds, "lines": lines}) + "\n")
