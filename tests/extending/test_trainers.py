"""The trainer of ``docs/extending/trainers.md``, installed beside us and known to nobody here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from service.ledger.database.states import RequestStatus, RunStatus
from service.ledger.database.tables import Model, TrainingRun
from service.ledger.training import runs
from service.messages.catalogue import CATALOGUE, Request
from service.settings import Settings
from tests.extending import packages
from tests.service.api import callers
from tests.service.api.callers import assert_problem
from tests.workers import place
from tests.workers.place import Place
from workers.jobs import prepare, spare, train
from workers.runtime import Runtime

#: It installs packages: `make test-packages`.
pytestmark = pytest.mark.slow

DOCUMENT = Path(__file__).parents[2] / "docs" / "extending" / "trainers.md"
TRAINER = "averaged"
RECIPE = {"trainer": TRAINER, "epochs": 8}
#: Has each call write down how many rows it was given, and with which seed.
NOTING = {
    "    generator = torch.Generator().manual_seed(seed)\n": (
        "    import json, os\n"
        '    with open(os.environ["TRAININGS"], "a") as file:\n'
        '        file.write(json.dumps([len(rows), seed]) + "\\n")\n'
        "    generator = torch.Generator().manual_seed(seed)\n"
    )
}
RETURN = "    return mean.module.state_dict()"
FIRST = "    weights = mean.module.state_dict()\n    name = next(iter(weights))\n"
#: What is changed in the package, and a part of what is said then.
FAULTY = {
    "raises": ({RETURN: '    raise LookupError("no such file")'}, "raised LookupError: no such"),
    "nothing": ({RETURN: "    return None"}, "returned NoneType in place of weights"),
    "missing": ({RETURN: FIRST + "    del weights[name]\n    return weights"}, "no weights"),
    "shapes": (
        {RETURN: FIRST + "    return weights | {name: weights[name][:1]}"},
        "and the network has float32",
    ),
    "nan": ({RETURN: FIRST + "    return weights | {name: weights[name] * torch.nan}"}, "finite"),
}


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file in which the trainer notes its calls."""
    file = tmp_path_factory.mktemp("trainings") / "calls"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAININGS", str(file))
        yield file


@pytest.fixture(scope="module")
def town(trainings: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A service whose compute process, and nothing else, has the package on its path."""
    package = packages.install(
        DOCUMENT, "my-trainers", tmp_path_factory.mktemp("package"), changed=NOTING
    )
    with packages.process(package) as compute:
        network = {**place.SMALL, "recipe": RECIPE}
        made = place.found(tmp_path_factory.mktemp("town"), compute, network=network)
        made.change_policy(auto_consolidate=False)
        yield made
        made.close()


@pytest.fixture(scope="module")
def operator(town: Place) -> Iterator[TestClient]:
    with callers.application(town.settings) as app:
        yield callers.client(app)


def noted(file: Path) -> list[list[int]]:
    """Rows and seed of each training so far."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_every_training_of_the_service_is_done_by_it(town: Place, trainings: Path) -> None:
    rows = len(town.training_rows())
    before = noted(trainings)
    assert before[0][0] == rows
    town.change_policy(
        method="retrain", fallbacks=[], reference_models=2, margins={"splits": 1, "folds": 2}
    )
    request = town.ask(town.training_rows()[0])
    town.work()
    assert town.request(request).status == RequestStatus.COMPLETED
    assert town.live().method == "retrain"
    assert noted(trainings)[len(before)][0] == rows - 1
    prepare.run_due(town.runtime)
    town.change_policy(method="iau")
    while spare.run_due(town.runtime):
        pass
    others = [count for count, _ in noted(trainings)[len(before) + 1 :]]
    # Two folds, and two reference models: of each pair every row is trained on by one.
    assert len(others) == 2 + 2
    assert sum(others) == 2 * (rows - 1)


def test_same_seed_gives_the_same_weights(town: Place, trainings: Path) -> None:
    before = len(noted(trainings))
    digests = []
    for _ in range(2):
        run = queued(town, seed=9)
        assert run.status == RunStatus.COMPLETED, run.error
        digests.append(town.versions()[-1].digest)
    assert digests[0] == digests[1]
    calls = noted(trainings)[before:]
    assert calls[0] == calls[1]
    assert run.curve is not None
    assert len(run.curve["epochs"]) == 1


def queued(town: Place, *, seed: int = 1, runtime: Runtime | None = None) -> TrainingRun:
    """Queue a training and run it as often as it asks for; its row afterwards."""
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        run_id = runs.create(
            session, model, reason="request", seed=seed, actor="key:k", now=town.runtime.now()
        ).id
    while train.run_due(runtime or town.runtime):
        pass
    with town.runtime.session() as session:
        return session.get_one(TrainingRun, run_id)


@pytest.mark.parametrize("name", FAULTY)
def test_one_that_gives_no_weights_fails_its_run_at_once_and_nothing_is_kept(
    town: Place, tmp_path: Path, name: str
) -> None:
    changed, words = FAULTY[name]
    before = [version.number for version in town.versions()]
    live = town.live().number
    with packages.process(
        packages.install(DOCUMENT, "my-trainers", tmp_path, changed=changed)
    ) as compute:
        runtime = Runtime(town.settings, town.runtime.engine, compute, owner="w2")
        run = queued(town, runtime=runtime)
    assert (run.status, run.attempts) == (RunStatus.FAILED, 1)
    assert run.error is not None
    assert run.error.startswith(f"the trainer {TRAINER} ")
    assert words in run.error
    assert [version.number for version in town.versions()] == before
    assert town.live().number == live


def test_one_that_hangs_is_ended_at_its_time_limit(town: Place, tmp_path: Path) -> None:
    changed = {RETURN: "    while True:\n        pass"}
    settings: Settings = town.settings.model_copy(
        update={"training_timeout_seconds": 5.0, "max_attempts": 1}
    )
    before = [version.number for version in town.versions()]
    with packages.process(
        packages.install(DOCUMENT, "my-trainers", tmp_path, changed=changed)
    ) as compute:
        run = queued(town, runtime=Runtime(settings, town.runtime.engine, compute, owner="w2"))
    assert run.status == RunStatus.FAILED
    assert run.error is not None
    assert "ran over its time" in run.error
    assert [version.number for version in town.versions()] == before


def test_run_says_what_to_do_when_its_package_is_gone(town: Place) -> None:
    with packages.process() as compute:
        answer = compute.call(CATALOGUE, Request(), timeout_seconds=300)
        assert [one.name for one in answer.announcements if one.kind == "recipe"] == ["default"]
        runtime = Runtime(town.settings, town.runtime.engine, compute, owner="w2")
        run = queued(town, runtime=runtime)
    assert run.status == RunStatus.FAILED
    assert run.error is not None
    assert f"no trainer is called '{TRAINER}'" in run.error
    assert "install its package where the workers run" in run.error


def test_it_is_listed_and_its_options_are_checked(operator: TestClient) -> None:
    listed = {one["name"]: one for one in operator.get("/v1/recipes").json()["items"]}
    assert listed.keys() == {"default", TRAINER}
    assert listed[TRAINER]["summary"].startswith("AdamW, with the weights averaged")
    assert listed[TRAINER]["options_schema"]["properties"]["epochs"]["minimum"] == 2

    def post(name: str, recipe: dict[str, Any]) -> Any:
        body = {
            "name": name,
            "dataset": "digits",
            "architecture": {"name": "mlp"},
            "recipe": recipe,
        }
        return operator.post("/v1/models", json=body)

    made = post("other", {"trainer": TRAINER, "epochs": 3})
    assert made.status_code == 201, made.text
    assert made.json()["recipe"] == {
        "trainer": TRAINER,
        "epochs": 3,
        "learning_rate": 0.01,
        "batch_size": 64,
    }
    assert_problem(post("wrong", {"trainer": TRAINER, "epochs": 1}), 422, "recipe.epochs")
    assert_problem(post("wrong", {"trainer": TRAINER, "alpha": 0}), 422, "not known here")
    assert_problem(post("wrong", {"trainer": "nobody"}), 422, "recipe.trainer", "averaged")
    assert_problem(post("wrong", {"trainer": 3}), 422, "recipe.trainer")
