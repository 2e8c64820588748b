"""The README quotes the stored results, not somebody's memory of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import summary

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("table", "name"),
    [(summary.reached, "deletion"), (summary.cost, "deletion"), (summary.service, "service")],
)
def test_readme_quotes_the_stored_results(table, name: str) -> None:
    measured = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    assert table(measured) in (ROOT / "README.md").read_text()


def test_document_of_heads_quotes_the_stored_results() -> None:
    measured = json.loads((ROOT / "benchmarks" / "results" / "heads.json").read_text())
    assert summary.heads(measured) in (ROOT / "docs" / "exact-heads.md").read_text()


@pytest.mark.parametrize("name", ["deletion", "heads", "service"])
def test_results_end_with_their_targets(name: str) -> None:
    measured = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    assert list(measured)[-1] == "targets"
    assert all({"name", "value", "bound", "met"} <= set(t) for t in measured["targets"])


def test_update_that_is_quoted_is_the_default_step() -> None:
    lines = [
        {"forgotten": 2250, "method": name, "seconds": seconds}
        for name, seconds in {
            "matched": 2.0,
            "calibrated": 1.0,
            "adam1": 4.0,
            "retrain": 60.0,
        }.items()
    ]
    measured = {"parts": {"rows-2250": {"measured": {"lines": lines}}, "table": {"measured": {}}}}
    assert "| 2,250 | 2.000 s | 4.0 s | 60 s | 30 |" in summary.cost(measured)
