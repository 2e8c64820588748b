"""The client as a program elsewhere has it: with its own dependencies alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from service.ledger.audit import chain, machines
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import DeletionRequest
from tests import factories
from tests.service.client.conftest import Place, weights

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "client.md"

#: Lets nothing be imported that is installed but not needed by the client.
ALONE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the client's wheel in it, unpacked."""
    folder = tmp_path_factory.mktemp("client")
    source = folder / "source"
    shutil.copytree(
        ROOT / "service" / "client", source, ignore=shutil.ignore_patterns("__pycache__")
    )
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*build, "--wheel-dir", folder, source], check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder / "site")
    return folder / "site"


def _absent(installed: Path) -> set[str]:
    """The packages that are installed here and that the client does not need."""
    [own] = installed.glob("*.dist-info")
    needed, waiting = set(), list(metadata.Distribution.at(own).requires or ())
    while waiting:
        requirement = Requirement(waiting.pop())
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        if requirement.name not in needed:
            needed.add(requirement.name)
            waiting += metadata.distribution(requirement.name).requires or ()
    canonical = {re.sub(r"[-_.]+", "-", name).lower() for name in needed}
    places = metadata.packages_distributions()
    absent = {
        package
        for package, names in places.items()
        if not canonical & {re.sub(r"[-_.]+", "-", name).lower() for name in names}
    }
    return absent | {"service", "workers", "models_store", "unlearning", "tests"}


def _run(installed: Path, code: str, folder: Path, **environment: str) -> str:
    absent = f"ABSENT = {sorted(_absent(installed))!r}\n"
    done = subprocess.run(
        [sys.executable, "-c", absent + ALONE + code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(installed), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_it_is_imported_without_the_service(installed: Path, tmp_path: Path) -> None:
    absent = _absent(installed)
    assert {"torch", "sqlalchemy", "celery", "fastapi", "numpy"} <= absent
    assert not {"httpx", "pydantic", "anyio"} & absent
    shown = _run(installed, "import unlearn_client; print(unlearn_client.__version__)", tmp_path)
    assert shown.strip() == metadata.version("unlearn")
    assert (installed / "unlearn_client" / "py.typed").exists()


def test_every_package_of_it_is_installed() -> None:
    with (ROOT / "service" / "client" / "pyproject.toml").open("rb") as file:
        said = set(tomllib.load(file)["tool"]["setuptools"]["packages"])
    root = ROOT / "service" / "client"
    found = {
        ".".join(("unlearn_client", *place.parent.relative_to(root).parts))
        for place in root.rglob("__init__.py")
    }
    assert said == found


@pytest.mark.slow
def test_the_examples_of_the_document_run(installed: Path, place: Place, tmp_path: Path) -> None:
    place.change(lambda session: _live_model(session, place))
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.M | re.S))
    code = code.replace("https://unlearn.example.org", place.url)
    ended = threading.Event()
    worker = threading.Thread(target=_complete_requests, args=(place, ended))
    worker.start()
    try:
        shown = _run(installed, code, tmp_path, UNLEARN_API_KEY=place.token)
    finally:
        ended.set()
        worker.join()
    assert "404 not-found" in shown
    assert "completed" in shown
    assert (tmp_path / "face-classifier.safetensors").exists()


def _live_model(session: object, place: Place) -> None:
    data = factories.dataset(session, name="people", rows=20, subjects=["person-12"] * 20)  # type: ignore[arg-type]
    model = factories.model(session, data, name="face-classifier")  # type: ignore[arg-type]
    factories.version(session, model, **weights(place.settings, seed=3))  # type: ignore[arg-type]


def _complete_requests(place: Place, ended: threading.Event) -> None:
    """Complete what is accepted, as far as a client sees it; no worker runs beside the API here."""
    while not ended.wait(0.2):
        with place.app.state.sessions() as session:
            for one in session.query(DeletionRequest).filter_by(status=RequestStatus.ACCEPTED):
                machines.requests.move(one, RequestStatus.COMPLETED)
                chain.append(
                    session,
                    actor="worker:w",
                    action=chain.Action.DELETION_REQUEST_COMPLETED,
                    subject=f"deletion_request:{one.id}",
                    data={},
                )
            session.commit()
