"""A benchmark in parts: what is measured is kept at once, and a run that was cut short goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import parts, results
from benchmarks.parts import Found, Part
from benchmarks.progress import Tell


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    return tmp_path


class Bench:
    """Three parts that count how often they were measured; ``broken`` names one that fails."""

    names = ("one", "two", "three")

    def __init__(self, broken: str = "") -> None:
        self.measured: list[str] = []
        self.broken = broken

    def run(self, **asked: Any) -> dict[str, dict[str, Any]]:
        made = [
            Part(name, lambda tell, name=name: self._measure(name, tell)) for name in self.names
        ]
        return parts.measure("bench", made, **asked)

    def _measure(self, name: str, tell: Tell) -> Found:
        tell(0.5, "half")
        if name == self.broken:
            raise KeyboardInterrupt
        self.measured.append(name)
        return {"value": len(name)}, [results.at_least(f"{name} is long", len(name), 4)]


def stored(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "bench.json").read_text())
    return found


def test_a_run_that_was_cut_short_goes_on_with_what_is_missing(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        Bench(broken="two").run()
    assert list(stored(folder)["parts"]) == ["one"]
    second = Bench()
    found = second.run(resume=True)
    assert second.measured == ["two", "three"]
    assert found == {"one": {"value": 3}, "two": {"value": 3}, "three": {"value": 5}}
    third = Bench()
    third.run(resume=True)
    assert third.measured == []


def test_a_full_run_measures_all_and_keeps_old_parts_until_they_are_replaced(folder: Path) -> None:
    Bench().run()
    before = stored(folder)["parts"]
    with pytest.raises(KeyboardInterrupt):
        Bench(broken="two").run()
    after = stored(folder)["parts"]
    assert after["one"]["at"] > before["one"]["at"]
    assert (after["two"], after["three"]) == (before["two"], before["three"])
    second = Bench()
    second.run(resume=True)
    assert second.measured == ["two", "three"]


def test_a_full_run_that_was_cut_short_in_its_first_part_goes_on_with_all(folder: Path) -> None:
    Bench().run()
    with pytest.raises(KeyboardInterrupt):
        Bench(broken="one").run()
    assert set(stored(folder)["parts"]) == set(Bench.names)
    second = Bench()
    second.run(resume=True)
    assert second.measured == list(Bench.names)


def test_a_full_run_drops_parts_that_are_no_more(folder: Path) -> None:
    old = Bench()
    old.names = ("gone", "one")
    old.run()
    Bench().run()
    assert set(stored(folder)["parts"]) == set(Bench.names)
    assert "gone" not in {one["part"] for one in stored(folder)["targets"]}


def test_one_part_takes_its_place_with_its_targets(folder: Path) -> None:
    Bench().run()
    before = stored(folder)
    bench = Bench()
    bench.run(only=["two"])
    assert bench.measured == ["two"]
    after = stored(folder)
    assert after["parts"]["one"] == before["parts"]["one"]
    assert after["parts"]["two"]["at"] > before["parts"]["two"]["at"]
    assert after["targets"] == before["targets"]
    assert list(after["parts"]) == list(before["parts"])
    assert list(after)[-1] == "targets"


def test_a_part_says_with_which_code_options_and_machine_it_was_measured(folder: Path) -> None:
    Bench().run(options={"epochs": 3})
    part = stored(folder)["parts"]["one"]
    assert part["code"] == parts.code()
    assert part["machine"] == results.machine()
    assert part["options"] == {"epochs": 3}
    assert part["seconds"] >= 0


@pytest.mark.parametrize(
    "changed", [{"options": {"epochs": 4}}, {"machine": {"processor": "another"}}]
)
def test_parts_of_other_options_or_machines_are_not_finished(
    changed: dict[str, Any], folder: Path
) -> None:
    Bench().run(options={"epochs": 3})
    content = stored(folder)
    content["parts"]["one"] |= changed
    (folder / "bench.json").write_text(json.dumps(content))
    bench = Bench()
    bench.run(resume=True, options={"epochs": 3})
    assert bench.measured == ["one"]


def test_a_result_of_another_form_is_not_overwritten_by_a_part(folder: Path) -> None:
    before = '{"machine": {}, "lines": []}'
    (folder / "bench.json").write_text(before)
    bench = Bench()
    for asked in ({"only": ["one"]}, {"resume": True}):
        with pytest.raises(SystemExit, match="measure everything again"):
            bench.run(**asked)
    assert bench.measured == []
    assert (folder / "bench.json").read_text() == before
    bench.run()
    assert set(stored(folder)["parts"]) == set(Bench.names)


def test_the_version_of_the_code_follows_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "ROOT", tmp_path)
    (tmp_path / "unlearning").mkdir()
    found = []
    for text in ("x = 1\n", "x = 2\n", "x = 1\n"):
        (tmp_path / "unlearning" / "module.py").write_text(text)
        parts.code.cache_clear()
        found.append(parts.code())
    parts.code.cache_clear()
    assert found[0] == found[2] != found[1]
    assert found[0]["commit"] == "unknown"  # no repository there
