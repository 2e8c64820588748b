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
    assert all(set(t) == {"name", "value", "bound", "met"} for t in measured["targets"])
