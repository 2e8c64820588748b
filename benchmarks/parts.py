"""The parts of a long benchmark: each is kept once it is measured, and a run can go on.

``results/NAME.json`` has every part under ``parts``, with the code, the machine, the options and
the moment that it was measured with and the seconds that it took; then the targets of all parts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks import results
from benchmarks.methods import files
from benchmarks.progress import Steps, Tell
from benchmarks.results import Target

ROOT = Path(__file__).parents[1]
#: Packages whose files decide what a benchmark measures.
PACKAGES = ("unlearning", "models_store", "service", "workers", "benchmarks")

Found = tuple[dict[str, Any], list[Target]]


@dataclass(frozen=True)
class Part:
    """A part with its name; ``weight``: about how long it takes, compared with the others."""

    name: str
    measure: Callable[[Tell], Found]
    weight: float = 1.0


def add_options(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """Add ``--only`` and ``--resume``."""
    parser.add_argument(
        "--only",
        nargs="+",
        choices=names,
        metavar="PART",
        help=f"measure these parts alone and put them into the result: {', '.join(names)}",
    )
    parser.add_argument(
        "--resume", action="store_true", help="measure what the last run has not finished"
    )


def measure(
    name: str,
    parts: Sequence[Part],
    *,
    only: Sequence[str] | None = None,
    resume: bool = False,
    options: Mapping[str, Any] | None = None,
) -> dict[str, dict[str, Any]]:
    """Measure all parts, or those asked for, and keep each in ``results/NAME.json``.

    Return what is measured of each.

    ``options`` change what is measured. A part is finished if it was measured since the last full
    run began, on this machine and with these options. Raise ``SystemExit`` if the stored result is
    not one of parts and some of it is to stay.
    """
    kept = Kept(results.FOLDER / f"{name}.json", [part.name for part in parts], options or {})
    chosen = [part for part in parts if only is None or part.name in only]
    if resume or only is not None:
        kept.check_form()
    if resume:
        for part in [part for part in chosen if kept.finished(part.name)]:
            chosen.remove(part)
            results.console.print(f"{part.name}: {kept.told(part.name)}", markup=False)
    elif only is None:
        kept.begin()
    known = [kept.seconds(part.name) for part in chosen]
    seconds = [took for took in known if took]
    whole = len(seconds) == len(chosen)
    with Steps(seconds if whole else [part.weight for part in chosen], seconds=whole) as steps:
        for part in chosen:
            tell = steps.begin(part.name)
            began = perf_counter()
            measured, targets = part.measure(tell)
            kept.put(part.name, measured, targets, seconds=perf_counter() - began)
        steps.end()
    missing = [part.name for part in parts if part.name not in kept.parts]
    if missing:
        results.console.print(f"Not measured yet: {', '.join(missing)}", markup=False)
    results.show_targets(kept.targets)
    results.console.print(f"Written to {results.shown(kept.path)}")
    return {part: stored["measured"] for part, stored in kept.parts.items()}


class Kept:
    """The file of a result that has parts."""

    def __init__(self, path: Path, names: Sequence[str], options: Mapping[str, Any]) -> None:
        self.path, self._names, self._options = path, list(names), dict(options)
        stored = files.read_json(path) if path.exists() else {}
        self._foreign = bool(stored) and "parts" not in stored
        self._began: str = stored.get("began", "")
        self.parts: dict[str, dict[str, Any]] = stored.get("parts", {})
        self._targets = [] if self._foreign else stored.get("targets", [])

    @property
    def targets(self) -> list[Target]:
        """The targets of all parts."""
        return [Target(**{k: v for k, v in one.items() if k != "part"}) for one in self._targets]

    def begin(self) -> None:
        """Begin a full run: parts measured before are not finished, but stay until replaced."""
        self._foreign = False
        self._began = _now()
        self.parts = {name: part for name, part in self.parts.items() if name in self._names}
        self._targets = [one for one in self._targets if one["part"] in self._names]
        self._write()

    def finished(self, name: str) -> bool:
        """Return whether a part needs no measuring."""
        part = self.parts.get(name)
        return (
            part is not None
            and part["at"] >= self._began
            and part["options"] == _plain(self._options)
            and part["machine"] == results.machine()
        )

    def told(self, name: str) -> str:
        """Return in words when a part was measured, and whether the code has changed since."""
        part = self.parts[name]
        changed = "" if part["code"]["files"] == code()["files"] else ", by other code than this"
        return f"measured at {part['at']}{changed}"

    def seconds(self, name: str) -> float | None:
        """Return how long a part took on this machine with these options, if it is known."""
        part = self.parts.get(name, {})
        if part.get("options") != _plain(self._options) or part["machine"] != results.machine():
            return None
        took: float | None = part["seconds"]
        return took

    def put(
        self, name: str, measured: Mapping[str, Any], targets: Sequence[Target], *, seconds: float
    ) -> None:
        """Put a part in its place, with its targets, and write the file."""
        self.parts[name] = {
            "code": code(),
            "machine": results.machine(),
            "options": _plain(self._options),
            "at": _now(),
            "seconds": seconds,
            "measured": dict(measured),
        }
        new = [{"part": name, **asdict(one)} for one in targets]
        self._targets = [one for one in self._targets if one["part"] != name] + new
        self._targets.sort(key=lambda one: self._place(one["part"]))
        self.parts = dict(sorted(self.parts.items(), key=lambda one: self._place(one[0])))
        self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(exist_ok=True)
        content = {"began": self._began, "parts": self.parts, "targets": self._targets}
        files.write_json(self.path, content)

    def _place(self, name: str) -> int:
        return self._names.index(name) if name in self._names else len(self._names)

    def check_form(self) -> None:
        """Raise ``SystemExit`` if the stored result is not one of parts."""
        if self._foreign:
            raise SystemExit(f"{self.path} is of another form; measure everything again")


@cache
def code() -> dict[str, str]:
    """Return the code's version: the commit, as far as git knows it, and a digest of the files."""
    told = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            told.update(f"{path.relative_to(ROOT)}\n".encode())
            told.update(path.read_bytes())
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        commit = found.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    return {"commit": commit, "files": told.hexdigest()[:16]}


def distinct(versions: Iterable[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """Return each version of the code once."""
    found: list[Mapping[str, str]] = []
    for one in versions:
        if one not in found:
            found.append(one)
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as they are read back from a file."""
    plain: dict[str, Any] = json.loads(json.dumps(options, default=str))
    return plain
