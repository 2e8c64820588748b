"""The gate of ``docs/extending/gates.md``, installed beside us and known to nobody here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service import audit_file
from service.ledger.reports.disclosure import LEAST_ROWS
from service.messages.catalogue import CATALOGUE, Request
from tests.extending import packages
from tests.service.api import callers
from tests.service.api.callers import assert_problem
from tests.workers import place
from tests.workers.place import Place

#: It installs packages: `make test-packages`.
pytestmark = pytest.mark.slow

DOCUMENT = Path(__file__).parents[2] / "docs" / "extending" / "gates.md"
GATE, METRIC, LIMIT = "sure_rows", "sure_rows_gap", "sure_rows"
#: The same gate under another name, but that it says of its figures that they are scores.
SECRET = {
    "my-gates": "my-scores",
    "my_gates": "my_scores",
    "sure_rows": "sure_scores",
    "Disclosure.FEW_ROWS": "Disclosure.SCORES",
}
SECRET_GATE, SECRET_METRIC = "sure_scores", "sure_scores_gap"
#: A package whose gate cannot be imported.
BROKEN = {
    "my-gates": "broken-gates",
    "my_gates": "broken_gates",
    "sure_rows": "broken_rows",
    "import numpy as np": "import numpy as np\n\nnp.no_such_function()",
}


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A service whose compute process, and nothing else, has the packages on its path."""
    home = tmp_path_factory.mktemp("packages")
    installed = (
        packages.install(DOCUMENT, "my-gates", home / "gates"),
        packages.install(DOCUMENT, "my-scores", home / "scores", changed=SECRET),
        packages.install(DOCUMENT, "broken-gates", home / "broken", changed=BROKEN),
    )
    with packages.process(*installed) as compute:
        made = place.found(tmp_path_factory.mktemp("town"), compute)
        yield made
        made.close()


@pytest.fixture(scope="module")
def operator(town: Place) -> Iterator[TestClient]:
    with callers.application(town.settings) as app:
        yield callers.client(app)


@pytest.fixture(scope="module")
def judged(town: Place, operator: TestClient) -> dict[str, int]:
    """Numbers of a version that forgot many rows and of the next one, which forgot one more.

    In this order: a pool with a batch of few rows is not shown either.
    """
    answer = operator.patch("/v1/models/m", json={"policy": {"gates": {LIMIT: 0.25}}})
    assert answer.status_code == 200, answer.text
    town.change_policy(auto_consolidate=False)
    rows = town.training_rows()
    numbers = {}
    for name, some in (("many", rows[10 : 10 + LEAST_ROWS]), ("few", rows[:1])):
        town.ask(*some)
        town.work()
        numbers[name] = town.live().number
    assert len(set(numbers.values())) == 2
    return numbers


def _measured(client: TestClient, number: int) -> Any:
    return client.get(f"/v1/models/m/versions/{number}/verification").json()["measured"]


def _reason(measured: Any, gate: str = GATE) -> str:
    (found,) = [one for one in measured["gates"] if one["gate"] == gate]
    return str(found["reason"])


def test_it_is_listed_with_what_it_says_of_itself(operator: TestClient) -> None:
    listed = {one["name"]: one for one in operator.get("/v1/gates").json()["items"]}
    shown = listed[GATE]
    assert shown["summary"] == "Is the model sure of forgotten rows as often as of never-seen ones?"
    assert (shown["concern"], shown["metric"]) == ("removal", METRIC)
    assert (shown["direction"], shown["disclosure"]) == ("within", "few_rows")
    assert shown["options_schema"]["properties"][LIMIT]["maximum"] == 1


def test_a_gate_that_cannot_be_imported_is_named_and_stops_no_announcement(
    town: Place, operator: TestClient
) -> None:
    answer = town.runtime.compute.call(CATALOGUE, Request(), timeout_seconds=60)
    [why] = answer.refused
    assert "the gate 'broken_rows' of broken-gates 1.0 is left out" in why
    assert "no_such_function" in why
    listed = {one["name"] for one in operator.get("/v1/gates").json()["items"]}
    assert {GATE, SECRET_GATE} <= listed
    assert "broken_rows" not in listed


def test_its_limit_is_in_the_schema_of_policies_and_checked(operator: TestClient) -> None:
    schema = operator.get("/v1/policy-schema").json()["properties"]["gates"]
    assert schema["properties"][LIMIT]["default"] == 0.05
    for wrong, words in (({LIMIT: 2}, f"gates.{LIMIT}"), ({"sure_row": 0.1}, LIMIT)):
        answer = operator.patch("/v1/models/m", json={"policy": {"gates": wrong}})
        assert_problem(answer, 422, words)


def test_it_judges_every_batch_by_the_policys_limit(
    operator: TestClient, judged: dict[str, int]
) -> None:
    for number in judged.values():
        stored = _measured(operator, number)
        assert stored["limits"][LIMIT] == 0.25
        assert {"value", "interval", "control"} <= stored["metrics"][METRIC].keys()
        assert GATE in {gate["gate"] for gate in stored["gates"]}


def test_its_figures_of_one_row_are_shown_to_auditors_alone(
    operator: TestClient, judged: dict[str, int], town: Place
) -> None:
    with callers.application(town.settings) as app:
        reader = callers.client(app, "models:read")
        few, many = (_measured(reader, judged[name]) for name in ("few", "many"))
    assert few["metrics"][METRIC].keys() == {"rows", "never_seen_rows", "withheld"}
    assert "audit:read" in _reason(few)
    assert many["metrics"][METRIC] == _measured(operator, judged["many"])["metrics"][METRIC]
    assert _reason(many) == _reason(_measured(operator, judged["many"]))


def test_what_it_says_of_itself_decides_who_reads_it(
    operator: TestClient, judged: dict[str, int], town: Place
) -> None:
    stored = _measured(operator, judged["many"])
    assert stored["metrics"][SECRET_METRIC] == stored["metrics"][METRIC]
    with callers.application(town.settings) as app:
        many = _measured(callers.client(app, "models:read"), judged["many"])
    assert many["metrics"][SECRET_METRIC].keys() == {"rows", "never_seen_rows", "withheld"}
    assert "single records" in _reason(many, SECRET_GATE)
    assert "single records" not in _reason(many)


def test_reports_tell_its_outcome_and_can_be_checked(
    operator: TestClient, judged: dict[str, int], tmp_path: Path
) -> None:
    saved, public_keys = tmp_path / "report.json", tmp_path / "keys.json"
    public_keys.write_bytes(operator.get("/.well-known/unlearning-keys.json").content)
    for name, number in judged.items():
        saved.write_bytes(operator.get(f"/v1/models/m/versions/{number}/audit").content)
        assert audit_file.verify_file(saved, keys=public_keys).ok
        told = json.loads(saved.read_text())["measured"]
        assert GATE in {gate["gate"] for gate in told["gates"]}
        assert ("withheld" in told["metrics"][METRIC]) == (name == "few")
