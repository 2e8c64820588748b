"""The small changes by which ``make mutants`` tries the tests."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants import __main__ as mutants
from tests.mutants import changes, trial
from tests.mutants.reach import Reach

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


TESTS = """
from changed import doubled, halved

def test_slow() -> None:
    assert [doubled(one) for one in range(200_000)][3] == 6

def test_quick() -> None:
    assert doubled(2) == 4

def test_of_another_line() -> None:
    assert halved(4) == 2
"""
PROGRAM = """
def doubled(x):
    return 2 * x

def halved(x):
    return x / 2
"""


@pytest.mark.slow
def test_a_change_is_tried_by_the_tests_that_run_its_line_the_quickest_first(
    tmp_path: Path,
) -> None:
    (tmp_path / "program").mkdir()
    (tmp_path / "program" / "changed.py").write_text(PROGRAM)
    (tmp_path / "test_changed.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = program\n")
    options = ["--reach", str(tmp_path / "reach.json"), "--reach-of", "program"]
    command = [sys.executable, "-m", "pytest", "-p", "tests.mutants.reach", *options]
    environment = {**os.environ, "PYTHONPATH": str(mutants.ROOT)}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    reach = Reach.read(tmp_path / "reach.json")
    path = Path("program/changed.py")
    tests = [f"test_changed.py::{name}" for name in ("test_quick", "test_slow")]
    assert reach.tests(path, 3) == tests
    assert reach.tests(path, 6) == ["test_changed.py::test_of_another_line"]
    assert reach.tests(path, 2) == []  # run by importing it
    assert reach.knows(Path("test_changed.py"))
    assert not reach.knows(Path("test_other.py"))


@pytest.mark.slow
def test_a_changed_copy_fails_where_the_unchanged_one_passes(tmp_path: Path) -> None:
    (tmp_path / "changed.py").write_text(PROGRAM)
    (tmp_path / "test_changed.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    chosen = trial.Choice(["test_changed.py"], "not slow", ("test_changed.py::test_quick",))
    assert trial.run(tmp_path, chosen, seconds=300) == pytest.ExitCode.OK
    changed = PROGRAM.replace("2 * x", "2 + x + 1")
    (tmp_path / "changed.py").write_text(changed)
    assert trial.run(tmp_path, chosen, seconds=300) == pytest.ExitCode.TESTS_FAILED
    (tmp_path / "changed.py").write_text(f"while True:\n    pass\n{changed}")
    assert trial.run(tmp_path, chosen, seconds=0.5) is None
