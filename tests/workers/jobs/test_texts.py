"""Texts from the upload of a tokenizer to forgotten records, over the API."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from service.ledger.database.tables import Dataset, Record
from tests import texts
from tests.service.api.callers import assert_problem
from tests.workers.office import Office, opened
from workers.compute.process import ComputeProcess
from workers.jobs import append, inspections, purge, spare

TOKENIZER = texts.tokenizer()
DIGEST = hashlib.sha256(TOKENIZER).hexdigest()
LENGTH = 8
TEXT = {"name": "text", "options": {"tokenizer": DIGEST, "max_length": LENGTH}}
ROWS = 600


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory, compute: ComputeProcess) -> Iterator[Office]:
    with opened(tmp_path_factory.mktemp("office"), compute) as found:
        yield found


@pytest.fixture(scope="module")
def letters(office: Office) -> Office:
    """The dataset ``letters`` of 600 texts."""
    return ingested(office, "letters")


@pytest.fixture(scope="module")
def trained(office: Office) -> Office:
    """A transformer ``m`` on the dataset ``kept``, whose rows no other test appends to."""
    return train(ingested(office, "kept"), "m", "kept")


def ingested(office: Office, dataset: str) -> Office:
    """Ingest a dataset of 600 texts."""
    assert office.send(TOKENIZER).status_code == 201
    texts.write_csv(office.settings.sources / f"{dataset}.csv", ROWS)
    shown = office.add(dataset, f"{dataset}.csv", input=TEXT)
    assert shown["status"] == "ready", shown["error"]
    return office


def train(office: Office, model: str, dataset: str) -> Office:
    """Train and prepare a transformer."""
    office.train(
        model,
        dataset,
        "transformer",
        parameters={"width": 16, "heads": 2, "layers": 1, "hidden": 16},
        recipe={"epochs": 8, "learning_rate": 0.01, "alpha": 0},
    )
    return office


def test_tokenizer_is_one_by_its_digest_and_is_kept(letters: Office) -> None:
    again = letters.send(TOKENIZER)
    assert (again.status_code, again.json()["digest"]) == (201, DIGEST)
    assert again.headers["Location"] == f"/v1/tokenizers/{DIGEST}"
    listed = letters.client.get("/v1/tokenizers").json()["items"]
    assert [(one["digest"], one["size_bytes"]) for one in listed] == [(DIGEST, len(TOKENIZER))]
    assert letters.client.get(f"/v1/tokenizers/{DIGEST}").json() == listed[0]
    assert letters.client.get(f"/v1/tokenizers/{'0' * 64}").status_code == 404
    purge.sweep(letters.runtime)
    assert letters.runtime.store.blobs.exists("tokenizers", DIGEST)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no json", "no tokenizer.json"),
        (b"[1]", "no model with a vocabulary"),
        (b'{"model": {"type": "BPE"}}', "no model with a vocabulary"),
    ],
)
def test_what_is_no_tokenizer_is_refused_and_not_stored(
    office: Office, content: bytes, words: str
) -> None:
    before = office.runtime.store.blobs.digests("tokenizers")
    assert_problem(office.send(content), 422, words)
    assert office.runtime.store.blobs.digests("tokenizers") == before


def test_dataset_shows_its_tokenizer_and_what_was_cut(letters: Office) -> None:
    shown = letters.client.get("/v1/datasets/letters").json()
    assert (shown["dtype"], shown["shape"], shown["scale"]) == ("int32", [LENGTH], None)
    assert shown["input"]["options"] == {
        **TEXT["options"],
        "vocabulary": texts.VOCABULARY,
        "pad": 0,
    }
    sentences, _ = texts.sentences(ROWS)
    counts = [len(one.split()) for one in sentences]
    assert shown["notes"]["texts_truncated"] == sum(count > LENGTH - 2 for count in counts)
    assert shown["notes"]["tokens"] == sum(min(count, LENGTH - 2) for count in counts)
    assert shown["notes"]["tokens_unknown"] == 0
    parts = {one["name"]: (one["part"], one["stored"]) for one in shown["columns"]}
    assert parts["text"] == ("feature", "int32")


def test_no_text_is_stored_anywhere(letters: Office) -> None:
    sentences, _ = texts.sentences(ROWS)
    longest = max(sentences, key=len).encode()
    kept = [file for file in letters.settings.state_dir.rglob("*") if file.is_file()]
    kept = [file for file in kept if letters.settings.sources not in file.parents]
    assert kept
    assert not [file for file in kept if longest in file.read_bytes()]


def test_rows_that_are_appended_are_read_with_the_same_tokenizer(letters: Office) -> None:
    texts.write_csv(letters.settings.sources / "more.csv", 30, seed=1, first=ROWS)
    body = {"source": {"path": "more.csv"}}
    answer = letters.client.post("/v1/datasets/letters/rows", json=body)
    assert answer.status_code == 202, answer.text
    append.run_due(letters.runtime)
    shown = letters.client.get(answer.headers["Location"]).json()
    assert (shown["status"], shown["rows"]) == ("completed", 30), shown["error"]
    assert letters.client.get("/v1/datasets/letters").json()["rows"] == ROWS + 30


def test_classes_of_texts_may_be_words_that_an_append_keeps(letters: Office) -> None:
    words = ["card lost", "top up", "transfer"]
    for file, rows, first in (("named.csv", 90, 0), ("last.csv", 9, 90)):
        said, labels = texts.sentences(rows, first)
        lines = [
            f"n{row},{one},{words[label]}"
            for row, (one, label) in enumerate(zip(said, labels, strict=True), start=first)
            if file == "named.csv" or label == texts.CLASSES - 1
        ]
        path = letters.settings.sources / file
        path.write_text("\n".join(["id,text,category", *lines]))
    shown = letters.add("named", "named.csv", input=TEXT, columns={"label": "category"})
    assert shown["status"] == "ready", shown["error"]
    assert (shown["classes"], shown["class_names"]) == (texts.CLASSES, words)
    letters.client.post("/v1/datasets/named/rows", json={"source": {"path": "last.csv"}})
    append.run_due(letters.runtime)
    with letters.runtime.session() as session:
        counts = select(Record.label, func.count()).join(Dataset, Dataset.id == Record.dataset_id)
        counts = counts.where(Dataset.name == "named").group_by(Record.label)
        found = dict(session.execute(counts).all())
    assert found == {0: 30, 1: 30, 2: 33}


def test_texts_and_a_typed_table_are_not_one_dataset(letters: Office) -> None:
    body = {"name": "both", "source": {"path": "letters.csv"}, "table": {}}
    answer = letters.client.post("/v1/datasets", json={**body, "input": TEXT})
    assert_problem(answer, 422, "table or input")
    shown = letters.add("both", "letters.csv", table={}, columns={"text": "text"})
    assert shown["status"] == "failed"
    assert "typed table holds no texts" in shown["error"]


def test_a_dry_run_shows_what_the_tokenizer_makes_of_it(letters: Office) -> None:
    body = {"name": "never", "source": {"path": "letters.csv"}, "input": TEXT, "dry_run": True}
    answer = letters.client.post("/v1/datasets", json=body)
    inspections.run_due(letters.runtime)
    found = letters.client.get(answer.headers["Location"]).json()
    assert (found["status"], found["found"]["rows"]) == ("done", ROWS), found["error"]
    assert found["found"]["input"]["options"]["vocabulary"] == texts.VOCABULARY


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tokenizer": "0" * 64}, ("input.options.tokenizer", "POST /v1/tokenizers")),
        ({"tokenizer": "../tokenizer.json"}, ("input.options.tokenizer",)),
        ({"tokenizer": DIGEST, "max_length": 1}, ("input.options.max_length",)),
        ({}, ("tokenizer",)),
    ],
)
def test_options_that_do_not_fit_are_refused_at_once(
    letters: Office, options: dict[str, Any], words: tuple[str, ...]
) -> None:
    given = {"name": "text", "options": options}
    body = {"name": "never", "source": {"path": "letters.csv"}, "input": given}
    assert_problem(letters.client.post("/v1/datasets", json=body), 422, *words)


def test_a_tokenizer_of_other_texts_fails_the_ingest_with_one_error(letters: Office) -> None:
    other = texts.tokenizer(words=["x", "y"])
    assert letters.send(other).status_code == 201
    given = {"name": "text", "options": {"tokenizer": hashlib.sha256(other).hexdigest()}}
    before = letters.runtime.store.rows.keys()
    shown = letters.add("other", "letters.csv", input=given)
    assert shown["status"] == "failed"
    assert "does not fit the texts" in shown["error"]
    assert letters.runtime.store.rows.keys() == before


def test_a_tokenizer_that_is_damaged_in_the_store_fails_the_ingest(letters: Office) -> None:
    other = texts.tokenizer(words=["z"])
    digest = letters.send(other).json()["digest"]
    letters.runtime.store.blobs.delete("tokenizers", digest)
    given = {"name": "text", "options": {"tokenizer": digest}}
    shown = letters.add("gone", "letters.csv", input=given)
    assert (shown["status"], "missing in the store" in shown["error"]) == ("failed", True)


def test_transformer_learns_from_masked_rows(trained: Office) -> None:
    shown = trained.client.get("/v1/models/m").json()
    assert shown["architecture"]["parameters"]["vocabulary"] == texts.VOCABULARY
    assert shown["architecture"]["parameters"]["length"] == LENGTH
    assert (shown["transform"], shown["recipe"]["optimiser"]) == ({}, "adamw")
    first = trained.client.get("/v1/models/m/versions/1/verification").json()["measured"]
    assert first["sets"]["audit"]["accuracy"] > 0.75  # of three classes


# A service each: what one step forgot stays out of every later dataset, and moves its rows.
@pytest.mark.parametrize("step", [pytest.param("matched", marks=pytest.mark.slow), "calibrated"])
def test_records_are_forgotten_by_a_step(
    tmp_path: Path, compute: ComputeProcess, step: str
) -> None:
    with opened(tmp_path, compute) as office:
        train(ingested(office, "letters"), "m", "letters")
        policy = {"method": "iau", "options": {"step": step}}
        answer = office.client.patch("/v1/models/m", json={"policy": policy})
        assert answer.status_code == 200, answer.text
        while step == "matched" and spare.run_due(office.runtime):
            pass
        before, rows = office.live("m").number, office.training_rows("letters", below=ROWS)[:20]
        assert office.forget("letters", *(f"s{row}" for row in rows))["status"] == "completed"
        found = office.live("m")
        assert (found.number, found.method) == (before + 1, "iau"), found.notes
        assert found.notes["step"] == step
        assert office.verdict(found) in {"passed", "no_power"}
        assert not office.stored("letters")[rows].any()


def test_records_are_forgotten_by_a_training(trained: Office) -> None:
    policy = {"method": "retrain", "options": {}}
    answer = trained.client.patch("/v1/models/m", json={"policy": policy})
    assert answer.status_code == 200, answer.text
    rows = trained.training_rows("kept", below=ROWS)[:3]
    assert trained.forget("kept", *(f"s{row}" for row in rows))["status"] == "completed"
    found = trained.live("m")
    assert (found.method, found.origin) == ("retrain", "retrained")
    assert trained.verdict(found) in {"passed", "no_power"}
