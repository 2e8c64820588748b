"""Every screen, endpoint and test that ``docs/controls.md`` names exists."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from service.console.routes import PAGES
from tests.service.api import callers

ROOT = Path(__file__).parents[1]
HEADING = ["control", "what the service does", "screen", "endpoint", "test"]
NONE = "–"


@dataclass(frozen=True)
class Control:
    """A row of one of the tables."""

    name: str
    screen: str
    endpoint: str
    test: str

    def __str__(self) -> str:
        return self.name


def _controls() -> list[Control]:
    tables = re.findall(
        r"^\|(.+)\|\n\|[-|]+\|\n((?:\|.+\|\n)+)", (ROOT / "docs/controls.md").read_text(), re.M
    )
    found = []
    for heading, rows in tables:
        assert _cells(heading) == HEADING
        for row in rows.splitlines():
            name, said, *where = _cells(row.strip("|"))
            assert said
            screen, endpoint, test = (one.strip("`") for one in where)
            found.append(Control(name, screen, endpoint, test))
    return found


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.split("|")]


CONTROLS = _controls()


@cache
def _tests(file: Path) -> frozenset[str]:
    tree = ast.parse(file.read_text())
    return frozenset(one.name for one in tree.body if isinstance(one, ast.FunctionDef))


@pytest.mark.parametrize("control", CONTROLS, ids=str)
def test_what_a_control_names_exists(control: Control) -> None:
    screens = {
        re.sub(r":\w+}", "}", route.path)
        for router in PAGES
        for route in router.routes
        if "GET" in route.methods
    }
    assert control.screen in {*screens, NONE}
    if control.endpoint != NONE:
        method, path = control.endpoint.split(" ")
        assert method.lower() in callers.document()["paths"].get(path, {}), control.endpoint
    file, _, name = control.test.partition("::")
    assert name in _tests(ROOT / file), control.test


def test_each_law_and_standard_has_controls() -> None:
    assert len(CONTROLS) > 20
    assert len({control.name for control in CONTROLS}) == len(CONTROLS)


def test_every_finding_of_the_board_has_a_row() -> None:
    said = (ROOT / "docs/controls.md").read_text()
    section = said.partition("## Findings of the EDPB")[2].partition("[Opinion 28/2024]")[0]
    rows = re.findall(r"^\| (?!control)(.+?) \|", section, re.M)
    assert len(rows) == 7, rows
