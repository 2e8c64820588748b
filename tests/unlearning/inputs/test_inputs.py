"""Kinds of input: ours, and what a file that declares one has to keep."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models_store.protocols import DTYPES
from unlearning import inputs
from unlearning.errors import BadDeclaration, UnknownName, WrongOptions
from unlearning.inputs import _declaration

#: A file that declares a kind, to be changed.
FILE = '''
"""Counts of words."""
from dataclasses import dataclass
import numpy as np
from unlearning.inputs import Input

@dataclass(frozen=True)
class Options:
    words: int

class Counts(Input[Options]):
    options = Options
    axes = ("words",)
    dtypes = ("int32",)
    decides = ("words",)
    def parameters(self, shape, options):
        return {"words": options.words}

INPUT = Counts()
'''

_numbers = itertools.count()


@pytest.mark.parametrize(
    ("shape", "dtype", "name", "parameters", "scale"),
    [
        (
            (3, 4, 5),
            "uint8",
            "image",
            {"inputs": 60, "channels": 3, "image_height": 4, "image_width": 5},
            1 / 255,
        ),
        (
            (1, 2, 2),
            "float32",
            "image",
            {"inputs": 4, "channels": 1, "image_height": 2, "image_width": 2},
            1.0,
        ),
        ((7,), "uint8", "table", {"inputs": 7}, 1.0),
    ],
)
def test_rows_without_a_stated_kind_are_images_or_tables(
    shape: tuple[int, ...], dtype: str, name: str, parameters: dict[str, int], scale: float
) -> None:
    kind = inputs.kind(inputs.of_rows(shape), {})
    facts = {"name": name, "options": {}, "parameters": parameters, "scale": scale}
    facts["learned"] = False
    assert inputs.facts(kind, shape, dtype) == facts
    assert parameters.keys() == set(kind.input.decides)


def test_types_of_inputs_are_those_of_the_store() -> None:
    assert set(_declaration.STORED) == set(DTYPES)


def test_importing_the_kinds_loads_no_torch() -> None:
    """Sources are read by a process that has no use for it."""
    program = "import sys; from unlearning import inputs; inputs.installed(); "
    program += "sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 0


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a package with one kind, ``counts``, on the path; its file, changed."""

    def put(*changed: tuple[str, str], name: str = "counts") -> None:
        text = FILE
        for word, other in changed:
            assert word in text
            text = text.replace(word, other)
        module = f"kind_{next(_numbers)}"
        (tmp_path / f"{module}.py").write_text(text)
        info = tmp_path / "kinds-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kinds\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[unlearning.inputs]\n{name} = {module}\n")
        monkeypatch.syspath_prepend(str(tmp_path))

    return put


def test_an_installed_package_adds_a_kind(install: Any) -> None:
    install()
    kind = inputs.kind("counts", {"words": 5})
    assert inputs.facts(kind, (5,), "int32")["scale"] is None
    kind.input.check(np.zeros((2, 5), np.int32), kind.options)
    with pytest.raises(WrongOptions, match="words"):
        inputs.kind("counts", {})
    with pytest.raises(UnknownName, match="counts, image, table"):
        inputs.kind("images", {})


@pytest.mark.parametrize(
    ("word", "other", "reason"),
    [
        ("INPUT =", "OUTPUT =", "must define INPUT"),
        ("INPUT = Counts()", "INPUT = Counts", "must define INPUT"),
        ('    axes = ("words",)\n', "", "lacks axes"),
        ('("int32",)', '("float64",)', "some of uint8, float32, int32"),
        ('("int32",)', '("int32", "uint8")', "one type, or uint8 and float32"),
        ("    decides", '    scales = {"uint8": 1.0}\n    decides', "a number for each of dtypes"),
        ("@dataclass(frozen=True)\n", "", "frozen dataclass"),
        ("words: int", "words: np.ndarray", "has no JSON schema"),
        ("from dataclasses", "from data_classes", "cannot be imported"),
    ],
)
def test_a_file_that_cannot_be_used_says_why_and_the_others_stay(
    install: Any, word: str, other: str, reason: str
) -> None:
    install((word, other))
    found = inputs.installed()
    assert list(found.found) == ["image", "table", "typed_table"]
    (why,) = found.refused
    assert "the kind of input 'counts' of kinds 1.0 is left out" in why
    with pytest.raises(BadDeclaration, match=reason):
        inputs.get("counts")


def test_an_installed_package_replaces_none_of_ours(install: Any) -> None:
    install(name="table")
    assert inputs.kind("table", {}).input.dtypes == ("uint8", "float32")
    assert "the service has one of this name" in inputs.installed().refused[0]


def test_first_names_row_and_position() -> None:
    wrong = np.zeros((3, 2, 2), bool)
    assert inputs.first(wrong) is None
    wrong[1, 1, 0] = wrong[2] = True
    assert inputs.first(wrong) == (1, 2)
