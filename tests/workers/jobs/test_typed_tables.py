"""A table of words, numbers and missing values: ingested, trained on, grown, and forgotten from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, select
from typer.testing import CliRunner

from service.console.views import new_request
from service.ledger.database import db, schema
from service.ledger.database.states import DatasetStatus
from service.ledger.database.tables import Dataset, Model
from service.ledger.destruction import removals, withdrawals
from service.ledger.registry import datasets
from service.settings import Settings
from tests.service.api import callers
from tests.service.api.callers import assert_problem
from tests.workers import place
from tests.workers.place import LENIENT
from tests.workers.shop import Shop
from unlearning.inputs import typed_table
from workers import cli
from workers.compute.process import ComputeProcess
from workers.jobs import append, erase, ingest, inspections, pipeline, prepare, train
from workers.runtime import Runtime
from workers.schedule import catalogue

ROWS, PEOPLE = 900, 150
JOBS = ("cook", "judge", "nurse", "?")
TABLE = {"missing": ["?"]}
HEADER = "id, person, age, job, hours, member, income"


def census(rows: range, *, change: dict[int, str] | None = None) -> str:
    """Lines as people pass them on: a blank after each comma, words, ``?`` for what is missing.

    Cooks and the young earn less. One person alone is an astronaut. ``change`` replaces lines.
    """
    random = np.random.default_rng(4)
    lines = [HEADER]
    for row in range(rows.stop):
        job, age = JOBS[random.integers(4)], int(random.integers(18, 80))
        rich = (job in ("judge", "nurse")) + (age > 45) + random.normal(0, 0.3) > 1.2
        job = "astronaut" if row % PEOPLE == 7 else job
        hours = f"{random.normal(38, 6):.1f}"
        line = f"r{row}, p{row % PEOPLE}, {age}, {job}, {hours}, {['no', 'yes'][row % 2]}, "
        lines.append((change or {}).get(row, line + (">50K" if rich else "<=50K")))
    return "\n".join([lines[0], *lines[1 + rows.start :]]) + "\n"


@pytest.fixture
def shop(shop: Shop) -> Shop:
    """A shop with a census, which nothing was trained on."""
    (shop.settings.sources / "census.csv").write_text(census(range(ROWS)))
    return shop


def add(shop: Shop, name: str = "census", path: str = "census.csv", **source: Any) -> Dataset:
    return shop.add(name, path, **{"columns": {"label": "income"}, "table": TABLE, **source})


def shown(shop: Shop, name: str = "census") -> dict[str, Any]:
    with shop.runtime.session() as session:
        return datasets.describe(session, datasets.get(session, name))


def columns(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in found["input"]["options"]["columns"]}


def test_view_and_dry_run_list_types_codes_and_what_was_normalised(shop: Shop) -> None:
    assert add(shop).status == DatasetStatus.READY
    views = {}
    with callers.application(shop.settings) as app:
        client = callers.client(app)
        views["view"] = client.get("/v1/datasets/census").json()
        body = {"name": "again", "source": {"path": "census.csv"}, "dry_run": True}
        body |= {"columns": {"label": "income"}, "table": TABLE}
        made = client.post("/v1/datasets", json=body)
        assert made.status_code == 202, made.text
        inspections.run_due(shop.runtime)
        asked = client.get(f"/v1/dataset-inspections/{made.json()['id']}").json()
        views["dry run"] = asked["found"]
    for found in views.values():
        listed = {one["name"]: one for one in found["columns"]}
        assert set(listed["id"]) == {"name", "part", "stored", "recognised"}
        assert listed["job"] == {
            "name": "job",
            "part": "feature",
            "stored": "code of a word",
            "recognised": "remaining column",
            "type": "category",
            "type_recognised": "by its values",
            "missing": sum(" ?," in line for line in census(range(ROWS)).splitlines()),
            "trimmed": ROWS,
            "features": 4,
            "codes": 3,
            "rare": 1,
        }
        kinds = {name: one.get("type") for name, one in listed.items()}
        assert kinds == {
            **{"id": None, "person": None, "age": "whole", "job": "category"},
            **{"hours": "number", "member": "boolean", "income": None},
        }
        assert (found["shape"], found["dtype"], found["classes"]) == ([4, 2], "int32", 2)
        assert found["class_names"] == ["<=50K", ">50K"]
        assert found["input"]["parameters"] == {"inputs": 7}
    learned = views["view"]["input"]["options"]["columns"][1]
    assert learned["words"] == ["cook", "judge", "nurse"]


def test_word_of_one_person_alone_is_nowhere_but_in_their_rows(shop: Shop) -> None:
    dataset = add(shop)
    assert "astronaut" not in str(shown(shop))
    rows = shop.runtime.store.rows.open(str(dataset.array_key)).rows
    cells = np.array(rows).view(np.int64)[:, 1, 0]
    theirs = np.flatnonzero(cells == typed_table.code_of("astronaut"))
    assert theirs.tolist() == [row for row in range(ROWS) if row % PEOPLE == 7]
    shop.forget("census", subject_id="p7")
    rows = shop.runtime.store.rows.open(str(dataset.array_key)).rows
    assert not np.array(rows)[theirs].any()
    assert shop.runtime.store.rows.verify(str(dataset.array_key)) is None


def test_forgotten_row_stays_out_although_other_rows_change_the_encoding(shop: Shop) -> None:
    first = add(shop)
    shop.forget("census", record_ids=("r3", "r8"))
    lines = {row: f"r{row}, p{row}, 990000, pilot, 0.5, no, middling" for row in range(20, 120)}
    (shop.settings.sources / "other.csv").write_text(census(range(ROWS), change=lines))
    again = add(shop, "census-2", "other.csv")
    before, after = columns(shown(shop)), columns(shown(shop, "census-2"))
    assert before["age"]["scale"] != after["age"]["scale"]
    assert before["job"]["words"] != after["job"]["words"]
    assert (first.rows, again.rows) == (ROWS, ROWS - 2)
    assert shop.suppressed("census-2") == 2
    assert {"r3", "r8"}.isdisjoint(shop.records("census-2"))


def test_request_by_the_name_of_a_class_finds_its_rows(shop: Shop) -> None:
    add(shop)
    with callers.application(shop.settings) as app:
        client = callers.client(app)
        body = {"dataset": "census", "class_name": ">50K"}
        made = client.post("/v1/deletion-requests", json=body)
        assert made.status_code == 202, made.text
        assert_problem(
            client.post("/v1/deletion-requests", json={**body, "class_name": "50K"}),
            422,
            "class_names",
        )
    assert made.json()["matched"] == census(range(ROWS)).count(">50K")
    typed = {**new_request.values(), "kind": "label", "dataset": "census", "label": " >50K "}
    assert new_request.body(typed).model_dump(exclude_unset=True) == body


def test_declaration_that_is_wrong_is_refused_by_name(shop: Shop) -> None:
    with callers.application(shop.settings) as app:
        client = callers.client(app)
        body = {"name": "c", "source": {"path": "census.csv"}}
        for table, said in (
            ({"types": {"age": "date"}}, "table.types.age"),
            ({"kinds": {}}, "table.kinds"),
            ({"missing": "?"}, "table.missing"),
        ):
            answer = client.post("/v1/datasets", json={**body, "table": table})
            assert_problem(answer, 422, said)
        both = {**body, "table": {}, "input": {"name": "table"}}
        assert_problem(client.post("/v1/datasets", json=both), 422, "give table or input")


def test_missing_value_that_the_source_does_not_mention_is_refused(shop: Shop) -> None:
    text = census(range(ROWS), change={4: "r4, p4, , cook, 1.5, no, <=50K"})
    (shop.settings.sources / "gap.csv").write_text(text)
    refused = add(shop, "gap", "gap.csv")
    assert refused.status == DatasetStatus.FAILED
    assert str(refused.error).startswith("Row 5, column 'age': the value is missing")
    assert shop.runtime.store.rows.keys() == []
    imputed = add(shop, "gap", "gap.csv", table={"missing": ["?", ""]})
    assert (imputed.status, columns(shown(shop, "gap"))["age"]["missing"]) == ("ready", False)


MORE = range(ROWS, ROWS + 40)


def add_rows(shop: Shop, text: str, *, existing: str = "refuse") -> dict[str, Any]:
    """Append lines to ``census``; the append as it is shown afterwards."""
    (shop.settings.sources / "more.csv").write_text(text)
    with callers.application(shop.settings) as app:
        client = callers.client(app)
        body = {"source": {"path": "more.csv"}, "existing": existing}
        made = client.post("/v1/datasets/census/rows", json=body)
        assert made.status_code == 202, made.text
        append.run_due(shop.runtime)
        found: dict[str, Any] = client.get(
            f"/v1/datasets/census/appends/{made.json()['id']}"
        ).json()
    return found


def test_appended_rows_are_read_with_the_types_and_codes_of_the_dataset(shop: Shop) -> None:
    add(shop)
    before = shown(shop)
    # New words, a column in which all numbers are whole, and another order of the columns.
    text = "income, member, hours, job, age, person, id\n" + "".join(
        f"<=50K, no, {n}, {'pilot' if n % 4 else 'cook'}, {n % 60}, p{n}, r{n}\n" for n in MORE
    )
    made = add_rows(shop, text)
    assert (made["status"], made["rows"], made["error"]) == ("completed", 40, None)
    assert made["notes"]["unknown"] == {"job": 30}
    after = shown(shop)
    assert after["input"] == before["input"]
    assert after["rows"] == ROWS + 40
    with shop.runtime.session() as session:
        (grown,) = session.scalars(select(place.DatasetAppend.array_key)).all()
    rows = np.array(shop.runtime.store.rows.open(str(grown)).rows).view(np.int64)[:, :, 0]
    assert rows.view(np.float64)[:, 2].tolist() == [float(n) for n in MORE]
    expected = [typed_table.code_of("pilot" if n % 4 else "cook") for n in MORE]
    assert rows[:, 1].tolist() == expected


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("30.5", "much", "Row 1, column 'hours': not a number"),
        ("40", "40.5", "Row 1, column 'age': expected a whole number"),
        ("yes", "perhaps", "Row 1, column 'member': expected true or false"),
        ("cook", "", "Row 1, column 'job': the value is missing"),
        ("<=50K", "middling", "Row 1, column 'income': the label is missing, or is none of the 2"),
        (" hours", " pay", "Column 'hours': there is no such column"),
        (" income", " income, zip", "zip"),
    ],
)
def test_append_that_does_not_fit_is_refused_and_nothing_of_it_is_kept(
    shop: Shop, old: str, new: str, said: str
) -> None:
    add(shop)
    keys = shop.runtime.store.rows.keys()
    line = f"r{ROWS}, p1, 40, cook, 30.5, yes, <=50K"
    text = f"{HEADER}\n{line}\n".replace(old, new)
    if "zip" in new:
        text = text.replace("<=50K", "<=50K, 8001")
    made = add_rows(shop, text)
    assert made["status"] == "failed"
    assert said in made["error"]
    assert shown(shop)["rows"] == ROWS
    assert shop.runtime.store.rows.keys() == keys


def test_words_are_gone_once_the_dataset_is_destroyed(shop: Shop) -> None:
    dataset = add(shop)
    with shop.runtime.session() as session:
        data = session.get_one(Dataset, dataset.id)
        withdrawals.withdraw_dataset(
            session, data, models="withdraw", purge="now", actor="k", now=shop.runtime.now()
        )
    while erase.run_due(shop.runtime):
        pass
    with shop.runtime.session() as session:
        removals.record(session, dataset.id, receipt={}, actor="k", now=shop.runtime.now())
    found = shown(shop)
    assert found["status"] == "purged"
    assert "nurse" not in str(found)
    assert found["input"]["parameters"] == {"inputs": 7}


def test_three_words_of_configuration_are_enough_at_the_command_line(shop: Shop) -> None:
    env = {
        "UNLEARN_DATABASE_URL": shop.settings.database,
        "UNLEARN_STATE_DIR": str(shop.settings.state_dir),
        "COLUMNS": "120",
    }

    def run(*words: str) -> Any:
        return CliRunner().invoke(cli.app, ["datasets", *words], env=env)

    path = str(shop.settings.sources / "census.csv")
    added = run("add", "census", path, "--label", "income", "--missing", "?")
    assert added.exit_code == 0, added.output
    assert "classes: <=50K, >50K" in added.output
    assert "they take no transform; 7 features" in added.output
    assert run("show", "census").exit_code == 0
    columns = json.loads(run("show", "census", "--json").output)["columns"]
    types = {one["name"]: one["type"] for one in columns if "type" in one}
    assert {"category", "whole"} <= set(types.values())
    stated = run("add", "c", path, "--label", "income", "--type", "age=number", "--dry-run")
    assert "declared" in stated.output
    wrong = run("add", "c", path, "--label", "income", "--type", "age=years")
    assert wrong.exit_code == 1
    assert "--type is COLUMN=TYPE" in wrong.output


@pytest.fixture(scope="module")
def office(
    tmp_path_factory: pytest.TempPathFactory, compute: ComputeProcess
) -> Iterator[tuple[Runtime, TestClient]]:
    """A service with an ``mlp`` on the census, trained and prepared."""
    home = tmp_path_factory.mktemp("census")
    settings = Settings(_env_file=None, state_dir=home, **place.SETTINGS)
    settings.sources.mkdir(parents=True)
    (settings.sources / "census.csv").write_text(census(range(ROWS)))
    engine: Engine = db.engine(settings.database)
    schema.upgrade(engine)
    runtime = Runtime(settings, engine, compute, owner="w0")
    catalogue.announce(runtime)
    with callers.application(settings) as app:
        client = callers.client(app)
        body: dict[str, Any] = {"name": "census", "source": {"path": "census.csv"}}
        body |= {"columns": {"label": "income"}, "table": TABLE}
        assert client.post("/v1/datasets", json=body).status_code == 202
        ingest.run_due(runtime)
        _train(runtime, client, "m", {"name": "mlp", "parameters": {"hidden": [16]}})
        yield runtime, client
    engine.dispose()


def _train(
    runtime: Runtime, client: TestClient, name: str, architecture: dict[str, Any], **given: Any
) -> None:
    policy = {"max_wait_seconds": 0, "auto_consolidate": False, "on_accuracy_drop": "promote"}
    if name == "m":
        policy |= {"gates": LENIENT, "margins": {"splits": 0}}
    body = {"name": name, "dataset": "census", "architecture": architecture, "policy": policy}
    answer = client.post("/v1/models", json={**body, **given})
    assert answer.status_code == 201, answer.text
    prepare.describe_due(runtime)
    assert client.get(f"/v1/models/{name}").json()["status"] == "ready"
    assert client.post(f"/v1/models/{name}/training-runs", json={"seed": 1}).status_code == 202
    train.run_due(runtime)
    prepare.run_due(runtime)


def _forget(runtime: Runtime, client: TestClient, **ask: Any) -> dict[str, Any]:
    answer = client.post("/v1/deletion-requests", json={"dataset": "census", **ask})
    assert answer.status_code == 202, answer.text
    pipeline.run_due(runtime)
    found: dict[str, Any] = client.get(f"/v1/deletion-requests/{answer.json()['id']}").json()
    return found


def test_models_are_trained_on_the_features_and_forget(
    office: tuple[Runtime, TestClient],
) -> None:
    runtime, client = office
    model = client.get("/v1/models/m").json()
    assert model["architecture"]["parameters"]["inputs"] == 7
    measured = client.get("/v1/models/m/versions/1/verification").json()["measured"]
    assert measured["sets"]["audit"]["accuracy"] > 0.8
    with runtime.session() as session:
        kept = session.scalars(select(Model).filter_by(name="m")).one().input
    assert kept["name"] == "typed_table"
    _train(runtime, client, "head", {"name": "ridge"})
    head = client.get("/v1/models/head/versions/1/verification").json()["measured"]
    assert head["sets"]["audit"]["accuracy"] > 0.75

    one = _forget(runtime, client, record_ids=["r12"])
    assert (one["status"], one["matched"]) == ("completed", 1)
    many = _forget(runtime, client, subject_id="p7")
    assert (many["status"], many["matched"]) == ("completed", 6)
    live = client.get("/v1/models/head/versions/3").json()
    assert (live["status"], live["method"]) == ("published", "downdate")
    number = client.get("/v1/models/m").json()["production"]
    assert client.get(f"/v1/models/m/versions/{number}").json()["method"] in ("iau", "retrain")
    report = client.get(f"/v1/models/m/versions/{number}/audit").json()
    assert any("learned from its training rows" in one for one in report["does_not_prove"])


def test_encoding_is_listed_as_learned_and_no_source_states_it(
    office: tuple[Runtime, TestClient],
) -> None:
    _, client = office
    listed = {one["name"]: one["learned"] for one in client.get("/v1/inputs").json()["items"]}
    others = dict.fromkeys(("features", "image", "table", "text"), False)
    assert listed == {**others, "typed_table": True}
    encoding = client.get("/v1/datasets/census").json()["input"]["options"]
    given = {"name": "typed_table", "options": encoding}
    body = {"name": "c", "source": {"path": "census.csv"}, "input": given}
    assert_problem(client.post("/v1/datasets", json=body), 422, "learned from the rows")
