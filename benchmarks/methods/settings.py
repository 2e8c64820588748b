"""What is asked of a run of the benchmark, and which methods in which settings it compares."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from unlearning import methods
from unlearning.core import training

#: The method that gives the references; it is the baseline and is not ranked.
BASELINE = "retrain"
#: The service's default, of which the targets speak.
DEFAULT = "iau"


@dataclass(frozen=True)
class Settings:
    """One problem and how much of it; the defaults are the record's."""

    data: Path = Path("../shared/data")
    kind: Literal["records", "class"] = "records"
    architecture: str = "lenet5"
    #: Width of the network; None is the architecture's own.
    width: int | None = None
    #: Training rows; None is all of them.
    rows: int | None = None
    epochs: int = 15
    batch_size: int = 128
    #: Gradient restriction of every training; 0 trains plainly.
    alpha: float = 0.0
    #: Share of the training rows to forget (records), or the class to forget.
    share: float = 0.05
    forget_class: int = 0
    #: Retrained models, each from a seed of its own.
    references: int = 3
    #: Most that the log of training updates may take, for the method that needs one.
    log_megabytes: int = 2000
    quick: bool = False

    @property
    def name(self) -> str:
        """Name of the files with the results; what is not the record's is said in it."""
        record = _record(self)
        parts = [self.family]
        for name, value in vars(self).items():
            if name != "data" and value != getattr(record, name):
                word = _UNSET.get(name) if value is None else value
                parts.append(f"{name.replace('_', '-')}-{word}")
        return "-".join(parts)

    @property
    def command(self) -> str:
        """What to type for this, the folder with the data apart."""
        usual = _usual(self.architecture, quick=self.quick)
        options = []
        for name in ("kind", "architecture", *_OPTIONS):
            value = getattr(self, name)
            default = getattr(usual if name in _OPTIONS else Settings(), name)
            if value is not None and value != default:
                options.append(f"--{name.replace('_', '-')} {value}")
        options += ["--quick"] if self.quick else []
        return "make bench-methods" + (f" OPTIONS='{' '.join(options)}'" if options else "")

    @property
    def family(self) -> str:
        """Which comparison it is: ``methods``, ``methods-class``, ..., however large."""
        parts = ["methods"]
        parts += [] if self.architecture == "lenet5" else [self.architecture]
        parts += [] if self.kind == "records" else [self.kind]
        parts += ["quick"] if self.quick else []
        return "-".join(parts)

    @property
    def recipe(self) -> training.Recipe:
        """How the base and every reference is trained."""
        return training.Recipe(
            learning_rate=1e-3,
            batch_size=self.batch_size,
            epochs=self.epochs,
            patience=self.epochs,
            alpha=self.alpha,
        )

    def identity(self) -> dict[str, Any]:
        """Whatever changes the trained models; finished work is found again by it."""
        neither = {"data", "references", "log_megabytes", "quick"}
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in neither}


#: Options of the command line that change the problem or how much of it is done.
_OPTIONS = ("width", "rows", "epochs", "alpha", "references", "log_megabytes")
#: Widths of the record, where it is not the architecture's own.
_RECORD_WIDTHS = {"resnet18": 16}
#: In a file's name, what a size that is not given means.
_UNSET = {"rows": "all", "width": "own"}


def _usual(architecture: str, *, quick: bool = False) -> Settings:
    """What is done with an architecture when nothing else is asked."""
    small = architecture == "lenet5"
    sizes: dict[str, Any] = {} if small else {"rows": 4000, "epochs": 10, "batch_size": 64}
    if quick:
        sizes = {"rows": 3000, "epochs": 8} if small else {"rows": 400, "epochs": 5}
        sizes |= {"references": 2, "batch_size": 64}
    return Settings(architecture=architecture, quick=quick, **sizes)


def _record(settings: Settings) -> Settings:
    """The settings of the record in the same comparison."""
    usual = _usual(settings.architecture, quick=settings.quick)
    width = _RECORD_WIDTHS.get(settings.architecture, usual.width)
    return dataclasses.replace(usual, kind=settings.kind, width=width)


@dataclass(frozen=True)
class Entry:
    """One method in one setting."""

    method: str
    #: Which of its forms, in a word or two; empty for its only or usual one.
    form: str
    strength: Literal["authors", "calibrated"]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """For tables and plots, without the strength."""
        return f"{self.method} ({self.form})" if self.form else self.method

    @property
    def name(self) -> str:
        """For files: unique among the entries."""
        return "-".join(filter(None, (self.method, self.form, self.strength))).replace(" ", "_")


#: Forms of a method beside the plain one: name, options. The default method names its own.
_FORMS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "boundary_shrink": [("", {}), ("pgd", {"search": "pgd"})],
    "negative_gradient": [("", {}), ("retain term", {"retain_term": True})],
}
_DEFAULT_FORMS = [
    Entry(DEFAULT, "", "calibrated"),
    Entry(DEFAULT, "released", "authors", {"step": "adam1"}),
    Entry(DEFAULT, "no curvature", "calibrated", {"preconditioner": "none"}),
]
#: Methods that pass over all retained rows, many times: they come last, so that a run that is cut
#: short has most of the table.
_LONG = ("amnesiac", "scrub", "msg", "salun", "fine_tune", "random_labels")


def entries(kind: str) -> list[Entry]:
    """Every installed method that forgets ``kind``, with each strength it has; long ones last."""
    found = list(_DEFAULT_FORMS)
    for name in methods.names():
        method = methods.get(name)
        if name in (BASELINE, DEFAULT) or kind not in method.forgets:
            continue
        if method.requires("statistics", kind):
            continue  # for heads that are fitted in closed form, not for these networks
        has_strength = "strength" in {f.name for f in dataclasses.fields(method.options)}
        for form, options in _FORMS.get(name, [("", {})]):
            found.append(Entry(name, form, "authors", options))
            if has_strength:
                calibrated = {**options, "strength": "calibrated"}
                found.append(Entry(name, form, "calibrated", calibrated))
    return sorted(found, key=_length)


def _length(entry: Entry) -> tuple[bool, bool, int]:
    long = entry.method in _LONG or entry.form == "retain term"
    place = _LONG.index(entry.method) if entry.method in _LONG else len(_LONG)
    return long, long and entry.strength == "calibrated", place if long else 0


def parse(arguments: list[str] | None = None) -> tuple[Settings, argparse.Namespace]:
    """Settings from the command line, and what was asked of this run only."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.methods", description="Every unlearning method on CIFAR-10."
    )
    parser.add_argument("--data", type=Path, default=Settings.data, help="CIFAR-10 folder")
    parser.add_argument("--kind", choices=("records", "class"), default="records")
    parser.add_argument("--architecture", default=Settings.architecture)
    parser.add_argument("--width", type=int, help="of the network (default: its own)")
    parser.add_argument("--rows", type=int, help="training rows (default: all; resnet18: 4000)")
    parser.add_argument("--epochs", type=int, help="of every training (default: 15; resnet18: 10)")
    parser.add_argument("--alpha", type=float, default=0.0, help="gradient restriction")
    parser.add_argument("--references", type=int, help="retrained models (default: 3)")
    parser.add_argument("--log-megabytes", type=int, default=Settings.log_megabytes)
    parser.add_argument("--quick", action="store_true", help="small, in minutes; not the record")
    parser.add_argument("--again", nargs="*", default=[], help="methods to run again")
    parser.add_argument(
        "--finished", action="store_true", help="run no method; report those that are finished"
    )
    asked = parser.parse_args(arguments)
    settings = _settings(asked)
    if settings.references < 2:
        # How far two of them are apart is what every distance is read against.
        parser.error("--references must be 2 or more")
    return settings, asked


def _settings(asked: argparse.Namespace) -> Settings:
    usual = _usual(asked.architecture, quick=asked.quick)
    given = {name: getattr(asked, name) for name in ("data", "kind", *_OPTIONS)}
    return dataclasses.replace(usual, **{k: v for k, v in given.items() if v is not None})
