"""A real API process's server and a client of it, by way of a proxy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine

from service.client import Client, Retries
from service.ledger.registry import keys
from service.main import create_app
from service.settings import Settings
from tests import factories
from tests.proxy import Proxy
from tests.service import announcements
from tests.service.api import serving
from tests.stored import save

#: Pauses of tests: none is as long as one that a person would notice.
QUICKLY = Retries(attempts=4, first_seconds=0.01, longest_seconds=5.0)


@dataclass(frozen=True)
class Place:
    """A served application, and where it is reached."""

    app: FastAPI
    settings: Settings
    network: Proxy
    direct: str
    token: str

    @property
    def url(self) -> str:
        """The service by way of the proxy."""
        return f"http://127.0.0.1:{self.network.port}"

    def key(self, *scopes: str) -> str:
        with self.app.state.sessions() as session:
            _, token = keys.create(session, "test", scopes or ("admin",), actor="cli")
            session.commit()
        return token

    def recorded(self) -> int:
        """How many deletion requests are recorded."""
        with Client(self.direct, self.token) as looking:
            return sum(1 for _ in looking.requests.each())

    def change(self, act: Callable[[Any], Any]) -> Any:
        """Do what a worker or an operator does, in one transaction."""
        with self.app.state.sessions() as session:
            done = act(session)
            session.commit()
        return done


@pytest.fixture
def place(sqlite_database: Engine, tmp_path: Path) -> Iterator[Place]:
    """A service with the dataset ``faces`` and the model ``who``, whose version 1 is live."""
    settings = Settings(
        _env_file=None,
        state_dir=tmp_path / "state",
        database_url=sqlite_database.url.render_as_string(hide_password=False),
    )
    app = create_app(settings)
    with app.state.sessions() as session:
        announcements.announce(session)
        data = factories.dataset(session, name="faces", rows=30)
        model = factories.model(session, data, name="who")
        factories.version(session, model, **weights(settings, seed=1))
        _, token = keys.create(session, "test", ["admin"], actor="cli")
        session.commit()
    with serving.served(app) as port, Proxy("127.0.0.1", port) as network:
        yield Place(app, settings, network, f"http://127.0.0.1:{port}", token)


@pytest.fixture
def client(place: Place) -> Iterator[Client]:
    with Client(place.url, place.token, retries=QUICKLY, timeout_seconds=20) as made:
        yield made


def weights(settings: Settings, *, seed: int) -> dict[str, Any]:
    """Columns of a version whose checkpoint, of some 400 kB, is in the store."""
    drawn = np.random.default_rng(seed).standard_normal((1000, 100)).astype(np.float32)
    saved = save(settings.store, {"0.weight": drawn}, {})
    return {"digest": saved.digest, "size_bytes": saved.size_bytes}
