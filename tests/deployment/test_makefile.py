"""The Makefile's own promises: every target is explained, and a wrong Python is named."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Makefile").read_text()
PHONY = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)", TEXT, re.M).group(1).replace("\\", "").split()  # type: ignore[union-attr]


def test_help_explains_every_target() -> None:
    shown = _make("help", folder=ROOT).stdout
    targets = re.findall(r"^([a-z-]+):", TEXT, re.M)
    assert re.findall(r"^  make (\S+) +\S", shown, re.M) == targets
    assert sorted(PHONY) == sorted(targets)


@pytest.mark.parametrize("target", sorted(set(PHONY) - {"help", "clean"}))
def test_every_target_makes_the_environment_it_needs(target: str, tmp_path: Path) -> None:
    _copy(tmp_path)
    planned = _make("--dry-run", target, folder=tmp_path).stdout
    assert "-m venv .venv" in planned
    assert "--constraint constraints.txt" in planned


def test_every_slow_test_is_run_by_a_target() -> None:
    """``make test`` leaves them out; nobody would see that no other target names their file."""
    recipes = re.findall(r"^\t.* -m slow ((?:.*\\\n)*.*)", TEXT, re.M)
    named = [Path(word) for recipe in recipes for word in re.findall(r"tests/[\w/.]+", recipe)]
    assert all((ROOT / one).exists() for one in named)
    slow = [
        file.relative_to(ROOT)
        for file in (ROOT / "tests").rglob("test_*.py")
        if "mark.slow" in file.read_text()
    ]
    assert slow
    assert [file for file in slow if not {file, *file.parents} & set(named)] == []


def test_a_python_that_is_too_old_is_named(tmp_path: Path) -> None:
    _copy(tmp_path)
    old = tmp_path / "old-python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    result = _make("demo", f"PYTHON={old}", folder=tmp_path)
    assert result.returncode != 0
    assert f"Python 3.11 or newer is needed, and '{old}' is not" in result.stderr
    assert not (tmp_path / ".venv").exists()


def test_every_dependency_is_pinned() -> None:
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert [p for p in pins if not re.fullmatch(r"[\w.-]+==[\w.]+|#.*", p)] == []
    names = {_normal(pin.split("==")[0]) for pin in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    requirements = project["dependencies"] + [text for extra in extras for text in extra]
    wanted = {_normal(re.match(r"[\w.-]+", text)[0]) for text in requirements}  # type: ignore[index]
    assert len(wanted) > 20
    assert wanted <= names


def _make(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    make = shutil.which("make")
    assert make is not None
    return subprocess.run(
        [make, "--no-print-directory", *arguments], cwd=folder, capture_output=True, text=True
    )


def _copy(folder: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    server = Path("tests/integrations/mlflow-server.txt")
    (folder / server).parent.mkdir(parents=True)
    shutil.copy(ROOT / server, folder / server)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
