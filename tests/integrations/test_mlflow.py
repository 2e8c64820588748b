"""A worker keeps the model registry of a real MLflow server in step with what is live."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select

from service.ledger.database import db
from service.ledger.database.tables import Model, RegistryCopy
from service.ledger.registry import copies
from tests.integrations.mlflow_server import Server, Shop, opened_shop
from workers.fault_points import InjectedFault
from workers.jobs import mlflow_registry
from workers.jobs.mlflow_registry import Weights
from workers.runtime import Runtime

#: It starts an MLflow server: `make test-integrations`.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests, each of which has a model of its own and leaves no file."""
    made = Server(tmp_path_factory.mktemp("mlflow"))
    made.start()
    yield made
    made.stop()


@pytest.fixture
def shop(sqlite_database: Engine, tmp_path: Path, server: Server) -> Shop:
    return opened_shop(sqlite_database, tmp_path, server.url)


def _client(url: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=url, registry_uri=url)


def _registered(server: Server, shop: Shop) -> list[dict[str, str]]:
    """Return the tags of the versions that the registry lists of the shop's model."""
    found = _client(server.url).search_model_versions(f"name='{shop.name}'")
    return [dict(one.tags) for one in found]


def test_the_registry_has_the_live_version_alone_and_its_alias_follows(
    shop: Shop, server: Server, tmp_path: Path
) -> None:
    from mlflow import artifacts

    first = shop.go_live(1)
    shop.step()
    client = _client(server.url)
    live = client.get_model_version_by_alias(shop.name, "production")
    assert live.tags == first.tags
    got = artifacts.download_artifacts(
        run_id=live.run_id, dst_path=str(tmp_path / "got"), tracking_uri=server.url
    )
    [file] = Path(got).rglob("*.safetensors")
    assert file.name == f"{shop.name}-1.safetensors"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == first.digest
    second = shop.go_live(2)
    shop.step()
    assert client.get_model_version_by_alias(shop.name, "production").tags == second.tags
    assert _registered(server, shop) == [second.tags]
    assert server.digests() == {second.digest}
    shop.withdraw()
    shop.step()
    assert _registered(server, shop) == []
    assert server.digests() == set()
    assert client.get_registered_model(shop.name).aliases == {}
    assert shop.lines() == [
        ("copied", "1"),
        ("copy_removed", "1"),
        ("copied", "2"),
        ("copy_removed", "2"),
    ]
    assert not list((shop.runtime.settings.state_dir / "copies").iterdir())


def test_nothing_is_registered_twice_and_nothing_remains_of_what_was_interrupted(
    shop: Shop, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNLEARN_FAULTS", str(tmp_path))
    first = shop.go_live(1)
    # The files are there and no entry is; then both are, and the ledger does not know of them.
    for point in ("registry.copied", "registry.done"):
        (tmp_path / point).write_text("fail")
        with pytest.raises(InjectedFault):
            shop.step()
        assert server.digests() == {first.digest}
    assert shop.rows()[1].registered_at is None
    shop.step()
    assert _registered(server, shop) == [first.tags]
    assert shop.rows()[1].registered_at is not None
    second = shop.go_live(2)
    (tmp_path / "registry.copied").write_text("fail")
    with pytest.raises(InjectedFault):
        shop.bridge.register_due()
    assert second.digest in server.digests()
    shop.withdraw()
    shop.step()
    assert server.digests() == set()
    assert _registered(server, shop) == []


def test_a_registry_that_is_away_delays_no_withdrawal_and_is_seen(
    shop: Shop, server: Server
) -> None:
    shop.go_live(1)
    shop.step()
    server.stop()
    shop.withdraw()
    began = time.monotonic()
    shop.step()
    assert time.monotonic() - began < 2 * shop.runtime.settings.mlflow_timeout_seconds
    with shop.runtime.session() as session:
        assert session.scalars(select(Model)).one().withdrawn_at is not None
        seen = copies.numbers(session, now=db.now() + timedelta(minutes=5))
        [stuck] = copies.stuck(session, limit=10)
    assert seen.copies == {"registered": 0, "to_register": 0, "to_remove": 1}
    assert min(seen.failing_seconds, seen.remaining_seconds) > 200
    assert (stuck.model, stuck.version, stuck.step, stuck.failures) == (shop.name, 1, "remove", 1)
    assert str(server.port) not in stuck.error
    shop.step(later=5)  # it rests
    assert shop.rows()[1].failures == 1
    shop.step(later=6)
    assert shop.rows()[1].failures == 2
    server.start()
    shop.step(later=60)
    assert shop.rows()[1].removed_at is not None
    assert shop.rows()[1].error is None
    assert server.digests() == set()


def test_a_withdrawn_version_that_somebody_put_back_is_found_and_removed(
    shop: Shop, server: Server, tmp_path: Path
) -> None:
    first = shop.go_live(1)
    shop.step()
    shop.withdraw()
    shop.step()
    registry = mlflow_registry.open_registry(shop.runtime.settings)
    file = tmp_path / "weights.safetensors"
    with shop.runtime.store.blobs.open("checkpoints", first.digest) as source:
        file.write_bytes(source.read())
    registry.register(first, file)
    stranger = Weights(shop.name, 1, "f" * 64)  # of another installation
    registry.register(stranger, file)
    shop.step(later=3700)
    assert _registered(server, shop) == [stranger.tags]
    assert shop.lines()[-2:] == [
        ("copy_found", "1"),
        ("copy_removed", "1"),
    ]
    registry.remove(stranger)
    assert server.digests() == set()


def test_a_copy_of_which_a_restored_backup_knows_nothing_is_found_and_removed(
    shop: Shop, server: Server
) -> None:
    shop.go_live(1)
    shop.step()
    with shop.runtime.session() as session:
        session.delete(session.scalars(select(RegistryCopy)).one())
    shop.withdraw()
    shop.step(later=3700)
    assert _registered(server, shop) == []
    assert server.digests() == set()
    assert shop.lines()[-2:] == [("copy_found", "1"), ("copy_removed", "1")]


def test_two_workers_do_not_move_one_alias_at_once(shop: Shop, server: Server) -> None:
    first = shop.go_live(1)
    other = Runtime.make(shop.runtime.settings, engine=shop.runtime.engine)
    with other.lease(f"registry:alias:{shop.name}") as held:
        assert held is not None
        shop.step()
        assert _registered(server, shop) == [first.tags]
        assert not shop.rows()[1].is_live
    shop.step()
    assert shop.rows()[1].is_live
    shop.withdraw()
    shop.step()


def test_files_that_cannot_be_reached_are_seen_and_leave_other_steps_alone(
    sqlite_database: Engine, tmp_path: Path
) -> None:
    (tmp_path / "root").write_text("no directory")
    apart = Server(tmp_path, root=tmp_path / "root" / "files")
    apart.start()
    try:
        shop = opened_shop(sqlite_database, tmp_path, apart.url)
        shop.go_live(1)
        shop.step()
        with shop.runtime.session() as session:
            [stuck] = copies.stuck(session, limit=10)
        assert (stuck.step, stuck.failures) == ("register", 1)
        assert "cannot be reached (" in stuck.error
        assert str(tmp_path) not in stuck.error
    finally:
        apart.stop()


def test_without_an_answer_a_call_ends_within_its_time() -> None:
    # A process of its own, as the client reads its environment once.
    program = (
        "from service.settings import Settings\n"
        "from workers.jobs import mlflow_registry as m\n"
        "registry = m.open_registry(Settings(_env_file=None))\n"
        "try: registry.point(m.Weights('who', 1, 'a'), '1')\n"
        "except m.Away as away: print(away)\n"
    )
    with _silent() as port:
        settings = {
            "UNLEARN_MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}",
            "UNLEARN_MLFLOW_TIMEOUT_SECONDS": "2",
        }
        asked = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert "did not answer" in asked.stdout, asked.stderr
    assert str(port) not in asked.stdout


@contextmanager
def _silent() -> Iterator[int]:
    """A port where connections are taken and nothing is said."""
    taken: list[socket.socket] = []
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def take() -> None:
            while True:
                try:
                    taken.append(listening.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
    for one in taken:
        one.close()
