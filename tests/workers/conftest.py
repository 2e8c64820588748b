"""A service with a trained model, ready in a copied directory, and one compute process to share."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.testing
from sqlalchemy import Engine

from service.settings import Settings
from tests.workers import place
from tests.workers.place import Place
from tests.workers.shop import Shop
from workers.compute.process import ComputeProcess

# Every invocation makes all commands anew, which takes longer than most of them do.
typer.testing._get_command = functools.cache(typer.main.get_command)


@pytest.fixture(scope="session")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory in which tests arm fault points, of this process and its compute process."""
    directory = tmp_path_factory.mktemp("faults")
    patch = pytest.MonkeyPatch()
    patch.setenv("UNLEARN_FAULTS", str(directory))
    yield directory
    patch.undo()


@pytest.fixture(scope="session")
def compute(faults: Path) -> Iterator[ComputeProcess]:
    """One compute process for all tests: loading torch anew for each would take seconds."""
    process = ComputeProcess(device="cpu", threads=1)
    yield process
    process.kill()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, compute: ComputeProcess) -> Path:
    """The state directory of a service whose model ``m`` on the digits has a live version."""
    home = tmp_path_factory.mktemp("trained")
    made = place.found(home, compute)
    made.close()
    return home


@pytest.fixture
def town(trained: Path, tmp_path: Path, compute: ComputeProcess, faults: Path) -> Iterator[Place]:
    """A copy of ``trained``, to be worked on and broken."""
    made = place.copied(trained, tmp_path / "state", compute, faults)
    yield made
    made.close()
    for left in faults.iterdir():
        left.unlink()


@pytest.fixture
def shop(settings: Settings, database: Engine) -> Shop:
    """A worker on a ledger without rows, once on each database."""
    return Shop(settings, database)
