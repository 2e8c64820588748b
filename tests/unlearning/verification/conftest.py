"""Fixtures of the tests of a verification."""

import pytest

from unlearning.verification.statistics import matching


@pytest.fixture
def any_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare classes with any number of never-seen rows, so that a test can count by hand."""
    monkeypatch.setattr(matching, "LEAST_OF_A_CLASS", 1)
