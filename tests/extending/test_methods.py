"""The method of ``docs/extending/methods.md``, installed beside us and known to nobody here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from service.ledger.database.states import RequestStatus
from service.messages.catalogue import CATALOGUE, Request
from tests.extending import packages
from tests.service.api import callers
from tests.service.api.callers import assert_problem
from tests.workers import place
from tests.workers.place import LENIENT, Place
from workers.jobs import pipeline
from workers.runtime import Runtime
from workers.schedule import catalogue

#: It installs packages: `make test-packages`.
pytestmark = pytest.mark.slow

DOCUMENT = Path(__file__).parents[2] / "docs" / "extending" / "methods.md"
METHOD = "best_of"
CHOICE = {"method": METHOD, "options": {"trainings": 2}}
#: The package under another name, by what is changed in it, and a part of what is said then.
FAULTY = {
    "unheard_of": ({'"exact"': '"exakt"'}, "GUARANTEE is 'exakt' and must be one of exact"),
    "wants_more": (
        {'COST = "training"': 'COST = "training"\nNEEDS = {"oracle": FORGETS}'},
        "NEEDS is 'oracle' and must be one of anchor, update_log",
    ),
    "forgets_what": ({'"records", "class"': '"recorsd"'}, "FORGETS is 'recorsd'"),
    "no_default": ({"] = 2": "]"}, "every option needs a default"),
    "thaws": ({"@dataclass(frozen=True)": "@dataclass"}, "Options must be a frozen dataclass"),
    "breaks": ({"FORGETS =": "raise RuntimeError('boom')\nFORGETS ="}, "RuntimeError: boom"),
    "calls": ({"unlearn(model, forget, retain, *,": "unlearn(model, *,"}, "must be called as"),
    "retrain": ({}, "the service has one of this name"),
}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packages.install(DOCUMENT, "my-methods", tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="module")
def town(package: Path, faults: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A service whose compute process, and nothing else, has the package on its path."""
    with packages.process(package) as compute:
        made = place.found(tmp_path_factory.mktemp("town"), compute)
        made.faults = faults
        yield made
        made.close()


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory in which fault points are armed."""
    directory = tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARN_FAULTS", str(directory))
        yield directory


@pytest.fixture(scope="module")
def operator(town: Place) -> Iterator[TestClient]:
    with callers.application(town.settings) as app:
        yield callers.client(app)


@dataclass(frozen=True)
class Numbers:
    """Numbers of the versions, in the order of the tests below."""

    fallback: int
    class_left: int
    after_class: int
    left_to_trainings: bool
    seconds_of_training: list[float]


@pytest.fixture(scope="module")
def numbers(town: Place, operator: TestClient) -> Numbers:
    """The step fails, so the fallback is asked; a class goes by a step; a record follows it."""
    change = {
        "fallbacks": [CHOICE, {"method": "retrain"}],
        "gates": LENIENT,
        "auto_consolidate": False,
        "on_accuracy_drop": "promote",
    }
    answer = operator.patch("/v1/models/m", json={"policy": change})
    assert answer.status_code == 200, answer.text
    town.arm("compute.updated", "fault")
    town.ask(row_of(town, 4))
    pipeline.run_steps_due(town.runtime)
    left = town.batches()[0].trains
    limits = []
    ask = town.runtime.ask

    def watched(*given: object, **named: object) -> object:
        limits.append(named["timeout_seconds"])
        return ask(*given, **named)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(town.runtime, "ask", watched)
        pipeline.run_trainings_due(town.runtime)
    fallback = town.live().number
    town.ask_for_class(3)
    town.work()
    class_left = town.live().number
    town.ask(row_of(town, 5))
    town.work()
    return Numbers(fallback, class_left, town.live().number, left, limits)


def row_of(town: Place, label: int) -> int:
    """The first training row of a class."""
    return next(row for row in town.training_rows() if town.array().labels[row] == label)


def version(town: Place, number: int) -> place.Version:
    (found,) = [one for one in town.versions() if one.number == number]
    return found


def test_it_is_listed_with_what_it_says_of_itself(operator: TestClient) -> None:
    listed = {one["name"]: one for one in operator.get("/v1/methods").json()["items"]}
    shown = listed[METHOD]
    assert shown["summary"].startswith("Several trainings without the forgotten rows")
    assert (shown["forgets"], shown["guarantee"]) == (["class", "records"], "exact")
    assert (shown["cost"], shown["needs"]) == ("training", {})
    assert shown["options_schema"]["properties"]["trainings"]["maximum"] == 20
    assert listed["iau"]["needs"] == {"anchor": ["records"]}
    assert listed["amnesiac"]["needs"] == {"update_log": ["class", "records"]}


def test_its_options_are_checked(operator: TestClient) -> None:
    wrong = {"method": METHOD, "options": {"trainings": 0}}
    answer = operator.patch("/v1/models/m", json={"policy": {"fallbacks": [wrong]}})
    assert_problem(answer, 422, "policy.fallbacks.0.options.trainings")


def test_as_a_fallback_it_has_the_lane_and_time_limit_of_a_training(
    town: Place, numbers: Numbers
) -> None:
    assert numbers.left_to_trainings
    assert numbers.seconds_of_training == [town.settings.training_timeout_seconds]
    made = version(town, numbers.fallback)
    assert (made.method, made.options) == (METHOD, CHOICE["options"])
    assert made.notes["passed_over"] == ["iau: InjectedFault: injected: fault"]
    assert (made.origin, made.anchor_id) == ("retrained", made.id)


def test_batch_after_a_forgotten_class_takes_the_policys_first_exact_method(
    town: Place, numbers: Numbers
) -> None:
    assert version(town, numbers.class_left).method == "iau"
    after = version(town, numbers.after_class)
    assert (after.method, after.options) == (METHOD, CHOICE["options"])
    assert (after.origin, after.whole_classes) == ("retrained", [])


def test_run_now_may_ask_for_any_exact_method_after_a_class(
    town: Place, operator: TestClient, numbers: Numbers
) -> None:
    town.ask_for_class(7)
    town.work()
    run_now = "/v1/models/m/batches:run-now"
    assert operator.post(run_now).json()["method"] == METHOD
    refused = operator.post(run_now, json={"method": "fine_tune"})
    assert_problem(refused, 409, f"ask for {METHOD}")
    asked = {"method": METHOD, "options": {"trainings": 1}}
    assert operator.post(run_now, json=asked).json()["method"] == METHOD
    town.ask(row_of(town, 6))
    town.work()
    assert (town.live().method, town.live().options) == (METHOD, asked["options"])


def test_policies_survive_that_it_is_gone(
    town: Place, operator: TestClient, numbers: Numbers, caplog: pytest.LogCaptureFixture
) -> None:
    """Another worker, which has not got the package, takes over."""
    town.change_policy(method=METHOD, options={}, fallbacks=[])
    with packages.process() as compute:
        without = Runtime(town.settings, town.runtime.engine, compute, owner="w3")
        catalogue.announce(without)
        assert f"the policy of model m names the method {METHOD}" in caplog.text
        names = [one["name"] for one in operator.get("/v1/methods").json()["items"]]
        assert METHOD not in names
        assert "retrain" in names
        answer = operator.patch("/v1/models/m", json={"policy": {"max_records": 5}})
        assert_problem(answer, 422, "policy.method", METHOD, "any more", "retrain")
        request = town.ask(row_of(town, 8))
        pipeline.run_due(without)
    assert town.request(request).status == RequestStatus.COMPLETED
    assert town.live().method == "retrain"
    assert METHOD in town.live().notes["passed_over"][0]
    catalogue.announce(town.runtime)
    assert operator.patch("/v1/models/m", json={"policy": {"max_records": 5}}).status_code == 200


def test_declarations_that_cannot_be_used_are_named_and_the_others_stay(
    package: Path, tmp_path: Path
) -> None:
    there = [package]
    for name, (changed, _) in FAULTY.items():
        names = {"my-methods": f"of-{name}", "my_methods": f"of_{name}", METHOD: name}
        installed = packages.install(
            DOCUMENT, f"of-{name}", tmp_path / name, changed={**changed, **names}
        )
        there.append(installed)
    with packages.process(*there) as compute:
        answer = compute.call(CATALOGUE, Request(), timeout_seconds=60)
    announced = {one.name for one in answer.announcements if one.kind == "method"}
    assert {METHOD, "iau", "retrain"} <= announced
    assert not announced & (FAULTY.keys() - {"retrain"})
    assert len(answer.refused) == len(FAULTY)
    for name, (_, words) in FAULTY.items():
        distribution = f"of-{name}".replace("_", "-")
        (said,) = [one for one in answer.refused if f"the method {name!r} of " in one]
        assert distribution in said.replace("_", "-")
        assert words in said


def test_a_name_that_two_packages_declare_is_nobodys(package: Path, tmp_path: Path) -> None:
    twin = {"my-methods": "twin-methods", "my_methods": "twin_methods"}
    other = packages.install(DOCUMENT, "twin-methods", tmp_path, changed=twin)
    with packages.process(package, other) as compute:
        answer = compute.call(CATALOGUE, Request(), timeout_seconds=60)
    (said,) = answer.refused
    assert "my-methods 1.0, twin-methods 1.0" in said.replace("_", "-")
    assert METHOD not in {one.name for one in answer.announcements}


@pytest.mark.parametrize(
    ("label", "changed", "words"),
    [
        (9, {"is_anchor=True, ": ""}, "says that it is exact"),
        (
            4,
            {'"exact"': '"empirical"', "is_anchor=True, ": "certificate={}, "},
            "gave a certificate",
        ),
        (5, {'"exact"': '"certified"'}, "gave no certificate"),
    ],
    ids=["no anchor", "a certificate although it is not exact", "certified without one"],
)
def test_method_whose_update_is_not_what_it_declares_is_passed_over(
    town: Place, numbers: Numbers, tmp_path: Path, label: int, changed: dict[str, str], words: str
) -> None:
    lying = packages.install(DOCUMENT, "my-methods", tmp_path, changed={**changed, "= 2": "= 1"})
    town.change_policy(method=METHOD, options={}, fallbacks=[{"method": "retrain"}])
    request = town.ask(row_of(town, label))
    with packages.process(lying) as compute:
        runtime = Runtime(town.settings, town.runtime.engine, compute, owner="w4")
        pipeline.run_due(runtime)
    assert town.request(request).status == RequestStatus.COMPLETED
    assert town.live().method == "retrain"
    assert words in town.live().notes["passed_over"][0]
