"""The store of ``docs/extending/store.md``, installed beside us and known to nobody here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from models_store import errors, open_store
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import DeletionRequest
from service.settings import Settings
from tests.extending import packages
from tests.service.api import callers
from tests.workers import place
from tests.workers.place import Place
from workers.compute.process import ComputeProcess

#: It installs packages: `make test-packages`.
pytestmark = pytest.mark.slow

DOCUMENT = Path(__file__).parents[2] / "docs" / "extending" / "store.md"
MEGABYTES = 200


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A service on such a store; its compute process has the package on its path as well."""
    installed = str(packages.install(DOCUMENT, "my-store", tmp_path_factory.mktemp("package")))
    home = tmp_path_factory.mktemp("town")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(installed)
        path = [installed, os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
        compute = ComputeProcess(device="cpu", threads=1)
        try:
            made = place.found(
                home, compute, store_url=f"quota://{home}/kept?megabytes={MEGABYTES}"
            )
            yield made
            made.close()
        finally:
            compute.kill()


def test_a_model_is_trained_and_forgets_and_its_rows_are_erased_in_it(town: Place) -> None:
    before = town.live()
    row = town.training_rows()[3]
    digits = town.array().rows[row].copy()
    request = town.ask(row)
    town.work()
    with town.runtime.session() as session:
        found = session.get_one(DeletionRequest, request)
        assert found.status == RequestStatus.COMPLETED, found.status_reason
    store = town.runtime.store
    assert type(store).__module__ == "my_store"
    assert town.live().number == before.number + 1
    assert {before.digest, town.live().digest} <= set(store.blobs.digests("checkpoints"))
    assert digits.any()
    assert not town.array().rows[row].any()
    assert not town.settings.store.exists()  # the directory of a store without an address


def test_its_weights_are_downloaded_and_a_full_store_is_told(town: Place) -> None:
    with callers.application(town.settings) as app:
        callers.beat(app)
        client = callers.client(app)
        number = town.live().number
        assert client.get("/readyz").json()["store"] == "usable"
        answer = client.get(f"/v1/models/m/versions/{number}/checkpoint")
        assert answer.status_code == 200
        filling = town.settings.state_dir / "kept" / "filling.bin"
        with filling.open("wb") as stream:
            stream.truncate((MEGABYTES + 1) << 20)
        try:
            assert TestClient(app).get("/readyz").json()["store"] == "unwritable"
            with pytest.raises(errors.Unwritable, match="is full"):
                town.runtime.store.receive(leftover_seconds=60)
        finally:
            filling.unlink()
        assert client.get("/readyz").json()["store"] == "usable"


def test_a_scheme_that_no_package_adds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="a scheme that an installed package adds"):
        Settings(_env_file=None, state_dir=tmp_path, store_url="ftp://host/store")
    with pytest.raises(ValueError, match=r"0 installed packages open ftp:// .* schemes .*s3"):
        open_store("ftp://host/store")
