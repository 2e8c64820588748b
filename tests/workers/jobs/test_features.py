"""Features that an encoder makes of texts at ingest, and heads on them that forget exactly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from tests import encoders, texts
from tests.service.api.callers import assert_problem
from tests.workers.office import STATEMENT, Office, opened
from workers.compute.process import ComputeProcess
from workers.jobs import append, certify, inspections

ROWS, LENGTH = 300, 8


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory, compute: ComputeProcess) -> Iterator[Office]:
    with opened(tmp_path_factory.mktemp("office"), compute) as found:
        yield found


@pytest.fixture(scope="module")
def small(office: Office) -> Any:
    """The encoder ``small`` as it is shown once it is ready."""
    encoders.write(office.settings.sources / "small")
    shown = office.add_encoder("small")
    assert shown["status"] == "ready", shown["error"]
    return shown


@pytest.fixture(scope="module")
def given(small: Any) -> dict[str, Any]:
    return {
        "name": "features",
        "options": {"encoder": small["digest"], "max_length": LENGTH},
    }


@pytest.fixture(scope="module")
def letters(office: Office, given: dict[str, Any]) -> Office:
    """The dataset ``letters``, whose rows are features."""
    texts.write_csv(office.settings.sources / "letters.csv", ROWS)
    shown = office.add("letters", "letters.csv", input=given)
    assert shown["status"] == "ready", shown["error"]
    return office


@pytest.fixture(scope="module")
def trained(letters: Office) -> Office:
    """The head ``m`` on the features, fitted in closed form."""
    letters.train("m", "letters", "ridge")
    return letters


def expected(sentences: list[str]) -> np.ndarray:
    """Mean over the tokens of each text, divided by its norm, by the library itself."""
    tokenizer = Tokenizer.from_str(texts.tokenizer().decode())
    tokenizer.enable_truncation(LENGTH)
    with torch.random.fork_rng():
        model = encoders.model()
    rows = []
    for text in sentences:
        ids = torch.tensor([tokenizer.encode(text).ids])
        with torch.no_grad():
            mean = model(input_ids=ids).last_hidden_state[0].mean(0)
        rows.append((mean / mean.norm()).numpy())
    return np.stack(rows)


def test_rows_are_the_pooled_features_of_each_text(letters: Office, small: Any) -> None:
    sentences, _ = texts.sentences(ROWS)
    np.testing.assert_allclose(
        letters.stored("letters")[:20], expected(sentences[:20]), rtol=1e-4, atol=1e-5
    )
    shown = letters.client.get("/v1/datasets/letters").json()
    assert (shown["dtype"], shown["shape"], shown["scale"]) == ("float32", [encoders.WIDTH], 1.0)
    options = shown["input"]["options"]
    assert (options["encoder"], options["tokenizer"]) == (small["digest"], small["tokenizer"])
    assert shown["notes"]["texts_truncated"] == sum(
        len(one.split()) > LENGTH - 2 for one in sentences
    )


def test_features_of_a_text_do_not_depend_on_the_rows_beside_it(
    letters: Office, given: dict[str, Any]
) -> None:
    rows = (letters.settings.sources / "letters.csv").read_text().splitlines()
    one = letters.settings.sources / "one.csv"
    one.write_text("\n".join([rows[0], rows[8], rows[100], rows[3]]))
    shares = {"train": 1, "validation": 0, "audit": 0}
    shown = letters.add("one", "one.csv", input=given, fractions=shares, classes=texts.CLASSES)
    assert shown["status"] == "ready", shown["error"]
    assert np.array_equal(letters.stored("one"), letters.stored("letters")[[7, 99, 2]])


def test_appended_texts_become_features_too(letters: Office) -> None:
    texts.write_csv(letters.settings.sources / "more.csv", 30, seed=1, first=ROWS)
    body = {"source": {"path": "more.csv"}}
    answer = letters.client.post("/v1/datasets/letters/rows", json=body)
    append.run_due(letters.runtime)
    shown = letters.client.get(answer.headers["Location"]).json()
    assert (shown["status"], shown["rows"]) == ("completed", 30), shown["error"]


def test_a_dry_run_makes_features_and_keeps_none(letters: Office, given: dict[str, Any]) -> None:
    before = letters.runtime.store.rows.keys()
    body = {"name": "no", "source": {"path": "letters.csv"}, "input": given, "dry_run": True}
    answer = letters.client.post("/v1/datasets", json=body)
    inspections.run_due(letters.runtime)
    found = letters.client.get(answer.headers["Location"]).json()
    assert (found["status"], found["found"]["shape"]) == ("done", [encoders.WIDTH])
    assert letters.runtime.store.rows.keys() == before


def test_deletion_from_a_head_on_features_is_exact(trained: Office, small: Any) -> None:
    first = trained.client.get("/v1/models/m/versions/1/verification").json()["measured"]
    assert first["sets"]["audit"]["accuracy"] > 0.6  # of three classes
    rows = trained.training_rows("letters", below=ROWS)[:5]
    request = trained.forget("letters", *(f"s{row}" for row in rows))
    assert request["status"] == "completed"
    live = trained.live("m")
    assert (live.number, live.method) == (2, "downdate"), live.notes
    assert trained.verdict(live) == "passed"
    assert not trained.stored("letters")[rows].any()
    [head] = certify.run(trained.runtime)
    assert head["faults"] == []
    report = trained.client.get("/v1/models/m/versions/2/audit").json()
    assert report["encoder"]["digest"] == small["digest"]
    assert [one["statement"] for one in report["encoder"]["statements"]] == [STATEMENT]


def test_a_forgotten_text_is_recognised_when_it_comes_again(
    trained: Office, given: dict[str, Any]
) -> None:
    row = trained.training_rows("letters", below=ROWS)[0]
    assert trained.forget("letters", f"s{row}")["status"] == "completed"
    lines = (trained.settings.sources / "letters.csv").read_text().splitlines()
    again = trained.settings.sources / "again.csv"
    kept = [one.split(",") for one in lines[row + 1 : row + 12]]
    table = [",".join([parts[0], *parts[2:]]) for parts in [["id", "", "text", "label"], *kept]]
    again.write_text("\n".join(table))  # without the people, by whom it would be recognised
    shown = trained.add("again", "again.csv", input=given, classes=texts.CLASSES)
    assert shown["status"] == "ready", shown["error"]
    assert shown["notes"]["suppressed"] >= 1
    assert shown["rows"] == 11 - shown["notes"]["suppressed"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"encoder": "0" * 64}, ("input.options.encoder", "GET /v1/encoders")),
        ({}, ("encoder",)),
    ],
)
def test_an_encoder_that_is_not_there_is_refused_at_once(
    letters: Office, options: dict[str, Any], words: tuple[str, ...]
) -> None:
    body = {
        "name": "never",
        "source": {"path": "letters.csv"},
        "input": {"name": "features", "options": options},
    }
    assert_problem(letters.client.post("/v1/datasets", json=body), 422, *words)


def test_longer_rows_than_the_encoder_takes_are_one_error(letters: Office, small: Any) -> None:
    options = {"encoder": small["digest"], "max_length": encoders.LENGTH + 1}
    shown = letters.add("long", "letters.csv", input={"name": "features", "options": options})
    assert (shown["status"], "at most 12 tokens" in shown["error"]) == ("failed", True)
