"""A worker that delivers to webhooks, for several files of tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from sqlalchemy import Engine

from service.settings import Settings
from tests.workers.webhook_office import Office
from workers.runtime import Runtime


@pytest.fixture
def office(settings: Settings, database: Engine) -> Iterator[Office]:
    allowed = {"webhook_http": True, "webhook_networks": "127.0.0.1/32"}
    patient = {"webhook_timeout_seconds": 60.0, "lease_seconds": 600.0, "poll_seconds": 0.05}
    mine = settings.model_copy(update=allowed | patient | {"webhook_rate": 10_000.0})
    with ExitStack() as receivers:
        yield Office(Runtime.make(mine, engine=database), receivers)
