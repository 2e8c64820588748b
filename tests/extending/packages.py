"""Packages that the documents show, written down and installed as a reader would."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def files(document: Path) -> dict[str, str]:
    """Return the blocks that a line such as ``my-nets/pyproject.toml``: stands above, by name."""
    found = re.findall(r"^`([\w./-]+)`:\n\n```\w+\n(.*?)^```", document.read_text(), re.M | re.S)
    return dict(found)


def install(document: Path, name: str, folder: Path) -> Path:
    """Install the package ``name`` of a document; return the directory to put on the path."""
    for path, text in files(document).items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    target = folder / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--target", str(target)]
    subprocess.run([*pip, *options, str(folder / name)], check=True)
    return target
