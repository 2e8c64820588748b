"""Run tests in forks of a process that has the libraries loaded, which takes most of a start."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: What the tests import of others; nothing of ours, which a change may be in.
LIBRARIES = (
    "alembic.command",
    "celery",
    "cryptography.hazmat.primitives.asymmetric.ed25519",
    "fastapi.testclient",
    "hypothesis.extra.numpy",
    "jsonschema",
    "numpy",
    "psycopg",
    "pydantic_settings",
    "redis",
    "rfc8785",
    "rich.progress",
    "safetensors.numpy",
    "scipy.stats",
    "sklearn.datasets",
    "sqlalchemy.orm",
    "torch.func",
    "typer",
)
_PR_SET_PDEATHSIG = 1


def prepare() -> None:
    """Start the process that later ones are forks of."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(LIBRARIES))


def run(folder: Path, files: Sequence[str], *, marks: str, seconds: float) -> int | None:
    """Return pytest's exit status in a copy of the checkout, or None after ``seconds``."""
    fork = multiprocessing.get_context("forkserver")
    process = fork.Process(target=_pytest, args=(folder, files, marks))
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.kill()  # it may not have begun yet
        process.join()
        return None
    return process.exitcode


def _pytest(folder: Path, files: Sequence[str], marks: str) -> None:
    os.setsid()  # what the tests start ends with them
    # Linux: a change may loop without end, whoever started the trial may be gone.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.chdir(folder)
    sys.path[:] = [str(folder), *(one for one in sys.path if one and Path(one) != ROOT)]
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    options = ["-q", "-x", "-p", "no:cacheprovider", "-m", marks]
    sys.exit(pytest.main([*options, *files]))
