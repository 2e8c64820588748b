"""What the API's image runs must do without what only the worker's image has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

#: It starts a process without the packages that an image leaves out: `make test-packages`.
pytestmark = pytest.mark.slow

WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "pyarrow", "PIL", "scipy", "sklearn", "matplotlib"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""
COMMANDS = """
from workers import cli
for command in ("migrate", "keys create me", "keys list", "audit check", "datasets --help"):
    print(">", command, flush=True)
    cli.app(command.split(), standalone_mode=False)
"""


def test_the_api_starts_without_torch(tmp_path: Path) -> None:
    shown = _run("from service import main; print(main.create_app().title)", tmp_path)
    assert shown.strip()


def test_beat_loads_the_celery_application_without_torch(tmp_path: Path) -> None:
    shown = _run("from workers.app import app; print(*app.conf.beat_schedule)", tmp_path)
    assert shown.split() == ["deletions", "trainings", "background", "events"]


def test_an_operator_migrates_makes_keys_and_checks_without_torch(tmp_path: Path) -> None:
    shown = _run(COMMANDS, tmp_path).split("> ")
    assert "unl_" in shown[2]
    assert "me" in shown[3].split()
    assert "Usage" in shown[5]


def _run(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT + code],
        cwd=folder,
        env={**os.environ, "UNLEARN_STATE_DIR": str(folder / "state")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
