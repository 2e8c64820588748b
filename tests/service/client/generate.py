"""Write the client's shapes and calls from the OpenAPI document: ``make client``.

It knows as much of JSON Schema as the document uses, and fails on anything else.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.service.client import twins
from tests.service.client.described import document
from tests.service.client.written_nouns import noun_files
from tests.service.client.written_shapes import shape_files

PACKAGE = Path(__file__).parents[3] / "service" / "client"


def written(made: Mapping[str, Any]) -> dict[str, str]:
    """Every generated file, by its path in the package, as ruff formats it."""
    files = {f"shapes/{name}.py": text for name, text in shape_files(made).items()}
    for folder, awaited in (("nouns", False), ("async_nouns", True)):
        calls = noun_files(made, awaited=awaited)
        files |= {f"{folder}/{name}.py": text for name, text in calls.items()}
    files["asynchronous.py"] = twins.awaited((PACKAGE / "synchronous.py").read_text())
    with tempfile.TemporaryDirectory() as made_in:
        for name, text in files.items():
            place = Path(made_in) / name
            place.parent.mkdir(exist_ok=True)
            place.write_text(text)
        settings = ["--config", str(PACKAGE.parents[1] / "pyproject.toml")]
        # Unused imports go, and the rest is sorted.
        _ruff("check", "--fix", "--quiet", "--select", "F401,I,RUF022", *settings, made_in)
        _ruff("format", "--quiet", *settings, made_in)
        return {name: (Path(made_in) / name).read_text() for name in files}


def _ruff(*words: str) -> None:
    program = Path(sys.executable).with_name("ruff")
    subprocess.run([program, *words], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    for name, text in written(document()).items():
        place = PACKAGE / name
        place.parent.mkdir(exist_ok=True)
        place.write_text(text)


if __name__ == "__main__":
    main()
