"""What the worker's image runs must do without what only the API's image has, and the reverse.

And no image has what nobody imports.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

#: It starts a process without the packages that an image leaves out: `make test-packages`.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
#: Packages that others load by name: Celery its transport, uvicorn its loop and parser.
LOADED_BY_NAME = {"redis", "httptools", "uvloop", "uvicorn"}

WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""
ALL_OF_A_WORKER = """
import importlib, pkgutil
import models_store, unlearning, workers
for package in (models_store, unlearning, workers):
    for one in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not one.name.startswith("workers.demo") and not one.name.endswith("__main__"):
            importlib.import_module(one.name)
from workers import cli
for command in ("migrate", "audit check", "worker-health --help"):
    cli.app(command.split(), standalone_mode=False)
"""


def test_a_worker_runs_without_what_only_the_api_needs(tmp_path: Path) -> None:
    absent = {module for text in EXTRAS["api"] for module in _modules(text)}
    absent = (absent | {"httpx", "starlette"}) - {"anyio"}  # anyio comes with others, too
    assert "fastapi" in absent
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(absent=absent) + ALL_OF_A_WORKER],
        cwd=tmp_path,
        env={**os.environ, "UNLEARN_STATE_DIR": str(tmp_path / "state")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("extra", ["", "api", "worker", "encoders", "s3"])
def test_everything_that_an_image_installs_is_imported(extra: str) -> None:
    packages = ("service", "workers", "models_store", "unlearning", "migrations")
    if extra == "api":
        packages = ("service",)
    sources = [file.read_text() for one in packages for file in (ROOT / one).rglob("*.py")]
    imported = {
        module
        for text in sources
        for module in re.findall(r"^\s*(?:import|from) (\w+)", text, re.M)
    }
    for text in EXTRAS[extra] if extra else PROJECT["dependencies"]:
        assert _modules(text) & (imported | LOADED_BY_NAME), f"nobody imports {text}"


def _modules(requirement: str) -> set[str]:
    """Return the top-level modules of a required package."""
    name = re.match(r"[\w.-]+", requirement)[0]  # type: ignore[index]
    found = {
        module
        for module, owners in metadata.packages_distributions().items()
        if name.lower().replace("_", "-") in {one.lower().replace("_", "-") for one in owners}
    }
    assert found, f"{name} is not installed"
    return found
