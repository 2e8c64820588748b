"""Packages that the documents show, written down and installed as a reader would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from workers.compute.process import ComputeProcess


def files(document: Path) -> dict[str, str]:
    """Return the blocks that a line such as ``my-nets/pyproject.toml``: stands above, by name."""
    found = re.findall(r"^`([\w./-]+)`:\n\n```\w+\n(.*?)^```", document.read_text(), re.M | re.S)
    return dict(found)


def install(
    document: Path, name: str, folder: Path, *, changed: Mapping[str, str] | None = None
) -> Path:
    """Install the package ``name`` of a document; return the directory to put on the path.

    ``changed``: words of the document, in the order given, by what stands in their place.
    """
    for path, text in files(document).items():
        for word, other in (changed or {}).items():
            path, text = path.replace(word, other), text.replace(word, other)
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    target = folder / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--target", str(target)]
    subprocess.run([*pip, *options, str(folder / name)], check=True)
    return target


@contextmanager
def process(*installed: Path) -> Iterator[ComputeProcess]:
    """Start a compute process that alone has these directories on its path."""
    with pytest.MonkeyPatch.context() as patch:
        path = [*map(str, installed), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
        made = ComputeProcess(device="cpu", threads=1)
    try:
        yield made
    finally:
        made.kill()
