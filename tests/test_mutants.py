"""The small changes by which ``make mutants`` tries the tests."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.mutants import __main__ as mutants
from tests.mutants import changes

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
