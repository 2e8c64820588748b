"""The time limits of a request's connections follow from the settings."""

from __future__ import annotations

import pytest

from service.ledger.database.connections import Limits
from service.settings import Settings


@pytest.mark.parametrize("seconds", [3.0, 7.0])
def test_a_request_may_be_idle_for_as_long_as_two_of_its_statements(seconds: float) -> None:
    settings = Settings(_env_file=None, mode="development", database_statement_seconds=seconds)
    limits = Limits.of_requests(settings)
    assert limits.statement_seconds == seconds
    assert limits.idle_seconds == seconds + seconds
