"""What the README and the documents beside it say is tried: commands, paths, settings, the walk."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer

from service.settings import Settings
from tests.extending import packages
from tests.service.api import callers
from unlearning import methods
from unlearning.verification import Criteria, limits
from workers import cli
from workers.demo.client import Client

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BRING_YOUR_OWN = ROOT / "docs" / "bring-your-own.md"
DOCUMENTS = [README, *sorted((ROOT / "docs").rglob("*.md"))]

BASH = shutil.which("bash")
CURL = shutil.which("curl")

#: Read by the command line and the tests, not by the service.
OTHER_VARIABLES = {
    "UNLEARN_API_KEY",
    "UNLEARN_FAULTS",
    "UNLEARN_TEST_EXAMPLES",
    "UNLEARN_TEST_POSTGRES_URL",
    "UNLEARN_TEST_REDIS_URL",
}
#: What the command line is made of.
COMMAND: Any = typer.main.get_command(cli.app)

documents = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


@documents
def test_every_make_target_that_is_named_exists(document: Path) -> None:
    named = set(re.findall(r"(?:`|^    )make ([a-z][a-z-]*)", document.read_text(), re.M))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert named <= targets


def test_the_readme_names_the_targets_to_start_with() -> None:
    named = set(re.findall(r"(?:`|^    )make ([a-z][a-z-]*)", README.read_text(), re.M))
    assert {"demo", "test", "serve", "faults", "compose-check"} <= named


def test_the_test_command_of_ci_is_the_readmes() -> None:
    assert re.search(r"^    make test ", README.read_text(), re.M)
    assert re.search(r"^    step make test$", (ROOT / ".ci" / "run").read_text(), re.M)


@pytest.fixture(scope="module")
def known_paths() -> list[re.Pattern[str]]:
    """The OpenAPI document's paths, with anything in the place of a parameter."""
    paths = callers.document()["paths"]
    return [re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path))) for path in paths]


@documents
def test_every_path_that_is_named_is_in_the_openapi_document(
    document: Path, known_paths: list[re.Pattern[str]]
) -> None:
    named = re.findall(
        # The predicate of a report is named unlearning/v1, which is no path.
        r"(?<!unlearning)(?:/v1|/\.well-known|/healthz|/readyz)[\w/{}$:.…-]*(?<![.:…/])",
        document.read_text(),
    )
    wrong = [path for path in named if not any(one.fullmatch(path) for one in known_paths)]
    assert wrong == []


@documents
def test_every_setting_that_is_named_exists(document: Path) -> None:
    settings = {f"UNLEARN_{name.upper()}" for name in Settings.model_fields}
    named = set(re.findall(r"UNLEARN_[A-Z_]+", document.read_text()))
    assert named <= settings | OTHER_VARIABLES


@documents
def test_every_command_that_is_named_exists(document: Path) -> None:
    words = re.findall(
        r"(?:`|^ *|\(|exec -T api )unlearn ([a-z][a-z-]*(?: [a-z][a-z-]*)?)", _code(document)
    )
    for said in words:
        command = COMMAND
        for word in said.split():
            if not hasattr(command, "commands"):
                break  # what follows is an argument
            assert word in command.commands, said
            command = command.commands[word]


@documents
def test_every_link_leads_somewhere(document: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_every_method_is_described() -> None:
    described = set(re.findall(r"^\| `(\w+)` \|", _text("unlearning.md"), re.M))
    assert described == set(methods.names())


def test_every_gate_is_described_with_its_default() -> None:
    described = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", _text("verification.md"), re.M))
    assert {name: float(value) for name, value in described.items()} == limits.values(Criteria())


@dataclass(frozen=True)
class Place:
    """A folder in which a service is served, as a reader of the README has it."""

    folder: Path
    url: str
    environment: dict[str, str]

    def run(self, script: str) -> str:
        """What a shell prints that runs ``script`` there; it stops at the first failure."""
        assert BASH is not None
        # The reader's patience of a second between two looks is not the test's.
        script = "sleep() { command sleep 0.2; }\n" + script
        script = script.replace("http://127.0.0.1:8000", self.url)
        done = subprocess.run(
            [BASH, "-euo", "pipefail", "-c", script],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=480,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def get(self, path: str) -> dict:
        key = self.run(f"{_shell(README)[0]}\necho $KEY").strip()
        response = httpx.get(self.url + path, headers={"Authorization": f"Bearer {key}"})
        assert response.status_code == 200, response.text
        return response.json()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    if CURL is None or BASH is None:
        pytest.skip("the walk needs bash and curl")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("UNLEARN_")}
    own = packages.install(BRING_YOUR_OWN, "my-nets", tmp_path)
    environment |= {
        "PYTHONPATH": os.pathsep.join([str(own), str(ROOT)]),
        "UNLEARN_THREADS": "1",
    }
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with (tmp_path / "serve.log").open("w") as log:
        serving = subprocess.Popen(
            [tmp_path / ".venv/bin/unlearn", "serve", "--port", str(port)],
            cwd=tmp_path,
            env=environment,
            stdout=log,
            stderr=log,
        )
        try:
            client = Client(url, "nobody")
            client.wait_until_up(timeout_seconds=60, alive=lambda: serving.poll() is None)
            yield Place(tmp_path, url, environment)
        finally:
            serving.terminate()
            serving.wait()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_walk_and_the_own_package_do_what_the_documents_say(place: Place) -> None:
    # One test: the second document goes on where the first one ends, and one walk is long enough.
    printed = place.run("\n".join(_shell(README)))
    _check_report(place, printed)
    _check_forgotten(place, printed)
    _check_answers_shown(printed)
    place.run("\n".join([_shell(README)[0], *_shell(BRING_YOUR_OWN)]))
    _check_own_package(place)


def _check_report(place: Place, printed: str) -> None:
    assert printed.rstrip().endswith("anyone could have made it: see the note above.")
    report = json.loads((place.folder / "report.json").read_text())
    assert report["asked"]["counts"] == {"requests": 1, "records": 60}
    assert report["asked"]["raw_rows"]["overwritten"] == 60
    assert report["production"] is True
    assert report["measured"]["verdict"] in ("passed", "no_power")


def _check_forgotten(place: Place, printed: str) -> None:
    assert '"code":"would-resurrect"' in printed
    request = json.loads((place.folder / "request.json").read_text())
    assert request["matched"] == 60
    seen = place.get(f"/v1/deletion-requests/{request['id']}")
    assert (seen["status"], seen["erasures"][0]["version"]) == ("completed", 2)


def _check_answers_shown(printed: str) -> None:
    """The answers in the README have no member that the real ones have not."""
    shown = "".join(re.findall(r"^```json\n(.*?)^```", README.read_text(), re.M | re.S))
    names = set(re.findall(r'"(\w+)":', shown))
    assert len(names) > 20
    assert names - set(re.findall(r'"(\w+)":', printed)) == set()


def _check_own_package(place: Place) -> None:
    gated = place.get("/v1/models/gated")
    assert gated["architecture"]["parameters"] == {"inputs": 100, "hidden": 32, "classes": 3}
    live = place.get(f"/v1/models/gated/versions/{gated['production']}")
    assert live["method"] in ("iau", "retrain")
    assert place.get("/v1/models/gated-elsewhere/versions/1")["origin"] == "imported"


def _shell(document: Path) -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```", document.read_text(), re.M | re.S)


def _code(document: Path) -> str:
    """Code spans, and lines of blocks, one per line."""
    text = document.read_text()
    spans = re.findall(r"`[^`\n]+`", text)
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    indented = re.findall(r"^    .*", text, re.M)
    return "\n".join([*spans, *blocks, *indented])


def _text(name: str) -> str:
    return (ROOT / "docs" / name).read_text()
