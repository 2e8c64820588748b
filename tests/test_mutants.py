"""The small changes by which ``make mutants`` tries the tests."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.mutants import __main__ as mutants
from tests.mutants import changes, trial
from tests.mutants.forks import Judged, read
from tests.mutants.switches import NAME, with_switches

SOURCE = '''
"""A module; 1 is a word here."""
from x import y

def f(a: int, *, limit: int = 3) -> bool:
    log.info("said %d", 1)
    if a < limit and not y:
        a += 1
        tell(a)
    return f"{a:>3}" == "ü" or a is None
'''


def test_each_change_is_one_place_and_still_a_program() -> None:
    found = changes.of(Path("x.py"), SOURCE.encode())
    said = [(one.line, one.before, ast.dump(ast.parse(one.after))) for one in found]
    expected = [
        (5, "3", "4"),
        (7, "a < limit and not y", "(not (a < limit and (not y)))"),
        (7, "a < limit and not y", "(a < limit or (not y))"),
        (7, "a < limit", "(a <= limit)"),
        (7, "not y", "(y)"),
        (8, "1", "2"),
        (9, "tell(a)", "pass"),
        (10, 'f"{a:>3}" == "ü" or a is None', "(f'{a:>3}' == 'ü' and a is None)"),
        (10, 'f"{a:>3}" == "ü"', "(f'{a:>3}' != 'ü')"),
        (10, "a is None", "(a is not None)"),
    ]
    assert said == [(line, before, ast.dump(ast.parse(after))) for line, before, after in expected]
    for one in found:
        changed = one.apply(SOURCE.encode()).decode()
        ast.parse(changed)
        assert changed != SOURCE


def test_tests_of_a_module_are_those_that_name_it_or_those_of_its_folder() -> None:
    own = mutants.naming(Path("service/ledger/audit/machines.py"))
    assert own[0] == Path("tests/service/ledger/audit/test_machines.py")
    assert mutants.naming(Path("models_store/streams.py")) == []
    folder = mutants.of_folder(Path("models_store/local/directories.py"))
    assert folder
    assert {test.parent for test in folder} == {Path("tests/models_store")}


def test_a_sample_is_repeatable_and_of_the_areas_alone() -> None:
    drawn = mutants.sample(["models_store"], 5, seed=4)
    assert drawn == mutants.sample(["models_store"], 5, seed=4)
    assert len(set(drawn)) == 5
    assert {one.path.parts[0] for one in drawn} == {"models_store"}


PROGRAM = """
LEAST = 1

def doubled(x):
    return 2 * x

def halved(x):
    return (x /
            2)

def counted(x):
    while x > 0:
        x = x - 1
    return x

def printed(x):
    return print(x, 1)
"""
TESTS = """
import pytest
from changed import LEAST, counted, doubled, halved, printed

@pytest.fixture(scope="module")
def half():
    return halved(4)

def test_long() -> None:
    assert [doubled(one) for one in range(200_000)][3] == 6

def test_quick() -> None:
    assert doubled(2) == 4

def test_first_with_half(half) -> None:
    assert half

def test_second_with_half(half) -> None:
    assert half == 2

def test_counted() -> None:
    assert counted(3) == LEAST - 1

def test_printed() -> None:
    assert printed(0) is None

def test_that_fails_anyhow() -> None:
    assert counted(3) == 1
"""


def test_all_changes_are_in_one_program_and_off_until_asked_for() -> None:
    source = "def f(a, b):\n    if a < (b +\n  1) and not b:\n        return 'ü', 2\n"
    found = changes.of(Path("x.py"), source.encode())
    switched = with_switches(source.encode(), dict(enumerate(found))).decode()
    assert switched.count("\n") == source.count("\n")

    def outcome(program: str, on: int | None) -> list[object]:
        place: dict[str, Any] = {NAME: lambda number: number == on}
        exec(program, place)
        return [place["f"](a, b) for a in range(3) for b in range(3)]

    assert outcome(switched, None) == outcome(source, None)
    for number, one in enumerate(found):
        changed = one.apply(source.encode()).decode()
        assert outcome(switched, number) == outcome(changed, None), one


@pytest.mark.slow
def test_changes_are_judged_by_the_passing_tests_that_come_by_them(tmp_path: Path) -> None:
    (tmp_path / "program").mkdir()
    (tmp_path / "program" / "changed.py").write_text(PROGRAM)
    (tmp_path / "test_changed.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = program\n")
    found = changes.of(Path("program/changed.py"), PROGRAM.encode())
    asked = [asdict(one) | {"path": one.path.as_posix()} for one in found]
    (tmp_path / "changes").write_text(json.dumps(asked))
    keys = ("changes", "judged", "learnt")
    options = [text for key in keys for text in (f"--{key}", str(tmp_path / key))]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.mutants.forks",
        "--at-least",
        "1",
        *options,
    ]
    environment = {**os.environ, "PYTHONPATH": str(mutants.ROOT)}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    judged = {
        one.change.partition(":")[2]: (one.outcome, one.by.partition("::")[2])
        for one in read(tmp_path / "judged", Judged)
    }
    assert judged == {
        "2: 1 → 2": ("not run", ""),  # but by importing the module
        "5: 2 * x → (2 / x)": ("killed", "test_quick"),
        "5: 2 → 3": ("killed", "test_quick"),
        "8: x / 2 → (x * 2)": ("killed", "test_second_with_half"),
        "9: 2 → 3": ("killed", "test_second_with_half"),
        "12: x > 0 → (x >= 0)": ("killed", "test_counted"),
        "12: 0 → 1": ("killed", "test_counted"),
        "13: x - 1 → (x + 1)": ("timed out", ""),
        "13: 1 → 2": ("killed", "test_counted"),
        "17: 1 → 2": ("survived", ""),
    }


@pytest.mark.slow
def test_a_changed_copy_fails_where_the_unchanged_one_passes(tmp_path: Path) -> None:
    (tmp_path / "changed.py").write_text(PROGRAM)
    (tmp_path / "test_changed.py").write_text(TESTS.partition("def test_that_fails")[0])
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\npythonpath = .\nmarkers =\n    slow: takes long\n"
    )
    files, marks = ["test_changed.py"], "not slow"
    assert trial.run(tmp_path, files, marks=marks, seconds=300) == pytest.ExitCode.OK
    changed = PROGRAM.replace("2 * x", "2 + x + 1")
    (tmp_path / "changed.py").write_text(changed)
    assert trial.run(tmp_path, files, marks=marks, seconds=300) == pytest.ExitCode.TESTS_FAILED
    (tmp_path / "changed.py").write_text(f"while True:\n    pass\n{changed}")
    assert trial.run(tmp_path, files, marks=marks, seconds=0.5) is None
