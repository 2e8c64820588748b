"""Encoders from their directory to forgotten records, over the API."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sqlalchemy import select

from service.ledger.database.tables import AuditEvent, Dataset
from tests import encoders, texts
from tests.service.api.callers import assert_problem
from tests.workers.office import STATEMENT, Office, opened
from workers.compute.process import ComputeProcess
from workers.jobs import purge

ROWS = 300


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory, compute: ComputeProcess) -> Iterator[Office]:
    with opened(tmp_path_factory.mktemp("office"), compute) as found:
        yield found


def kept(office: Office) -> dict[str, list[str]]:
    """Digests of what is stored of encoders."""
    blobs = office.runtime.store.blobs
    return {kind: blobs.digests(kind) for kind in ("encoders", "tokenizers")}


@pytest.fixture(scope="module")
def small(office: Office) -> Any:
    """The encoder ``small`` as it is shown once it is ready."""
    encoders.write(office.settings.sources / "small")
    shown = office.add_encoder("small")
    assert shown["status"] == "ready", shown["error"]
    return shown


@pytest.fixture(scope="module")
def trained(office: Office, small: Any) -> Office:
    """A model ``m`` on the encoder and on the texts ``letters``, trained and prepared."""
    texts.write_csv(office.settings.sources / "letters.csv", ROWS)
    options = {"tokenizer": small["tokenizer"], "max_length": 8}
    shown = office.add("letters", "letters.csv", input={"name": "text", "options": options})
    assert shown["status"] == "ready", shown["error"]
    office.train(
        "m",
        "letters",
        "encoder_classifier",
        parameters={"encoder": small["digest"]},
        recipe={"epochs": 10, "learning_rate": 0.05, "alpha": 0},
    )
    return office


def test_encoder_is_named_by_its_digest_and_shown_with_the_statement(
    office: Office, small: Any
) -> None:
    assert small["facts"]["kind"] == "bert"
    assert (small["facts"]["width"], small["facts"]["layers"]) == (encoders.WIDTH, encoders.LAYERS)
    assert (small["facts"]["vocabulary"], small["facts"]["length"]) == (
        texts.VOCABULARY,
        encoders.LENGTH,
    )
    assert small["statement"] == STATEMENT
    assert small["tokenizer"] == hashlib.sha256(texts.tokenizer()).hexdigest()
    weights = (office.settings.sources / "small" / "model.safetensors").read_bytes()
    assert small["weights"] == hashlib.sha256(weights).hexdigest()
    assert office.client.get(f"/v1/tokenizers/{small['tokenizer']}").status_code == 200
    assert small["name"] in [
        one["name"] for one in office.client.get("/v1/encoders").json()["items"]
    ]
    with office.runtime.session() as session:
        lines = session.scalars(select(AuditEvent.action).filter_by(subject="encoder:small"))
        assert list(lines) == ["encoder:created", "encoder:checked"]


def test_the_same_files_have_the_same_digest_and_the_sweep_keeps_them(
    office: Office, small: Any
) -> None:
    assert office.add_encoder("again", "small")["digest"] == small["digest"]
    before = kept(office)
    purge.sweep(office.runtime)
    assert kept(office) == before
    body = {"name": "small", "source": {"path": "small"}, "statement": STATEMENT}
    assert_problem(office.client.post("/v1/encoders", json=body), 409, "small")


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": 1}))


def cut(folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-100])


def poisoned(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.LayerNorm.bias"][0] = float("nan")
    save_file(weights, folder / "model.safetensors")


def half(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    named = {name: t.to(torch.bfloat16) for name, t in weights.items()}
    save_file(named, folder / "model.safetensors")


def with_code(folder: Path) -> None:
    config = (folder / "config.json").read_text()
    changed = config.replace("{", '{"auto_map": {"AutoModel": "modeling.Theirs"},', 1)
    (folder / "config.json").write_text(changed)


def of_others(folder: Path) -> None:
    (folder / "tokenizer.json").write_bytes(texts.tokenizer(words=[f"x{n}" for n in range(99)]))


def linked(folder: Path) -> None:
    outside = folder.parent.parent / "outside.json"
    (folder / "config.json").rename(outside)
    (folder / "config.json").symlink_to(outside)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (pickled, "pickled"),
        (cut, "damaged"),
        (poisoned, "not finite"),
        (half, "float32"),
        (with_code, "auto_map"),
        (of_others, "bring the tokenizer"),
        (linked, "link out of the directory"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer.json"),
        (lambda folder: (folder / "tokenizer.json").write_bytes(b"{}"), "tokenizer.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is not"),
        (lambda folder: (folder / "config.json").write_text("{}"), "model_type"),
    ],
    ids=lambda one: getattr(one, "__name__", None) if callable(one) else None,
)
def test_files_that_cannot_be_used_are_one_error_and_nothing_is_kept(
    office: Office,
    small: Any,
    spoil: Callable[[Path], None],
    words: str,
    request: pytest.FixtureRequest,
) -> None:
    name = f"bad-{abs(hash(request.node.callspec.id)) % 10**8}"
    folder = encoders.write(office.settings.sources / name, vocabulary=texts.VOCABULARY + 1)
    spoil(folder)
    before = kept(office)
    shown = office.add_encoder(name)
    assert shown["status"] == "failed"
    assert words in shown["error"]
    assert (shown["digest"], shown["facts"]) == (None, None)
    assert kept(office) == before


def test_a_refused_encoder_can_be_added_again_under_its_name(office: Office) -> None:
    folder = encoders.write(office.settings.sources / "twice")
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text("{")
    assert office.add_encoder("twice")["status"] == "failed"
    (folder / "config.json").write_text(config)
    shown = office.add_encoder("twice")
    assert (shown["status"], shown["error"]) == ("ready", None)


@pytest.mark.parametrize("path", ["../outside", "/etc", "a/../../b"])
def test_no_path_leads_out_of_the_data_root(office: Office, path: str) -> None:
    body = {"name": "out", "source": {"path": path}, "statement": STATEMENT}
    assert_problem(office.client.post("/v1/encoders", json=body), 422, "outside-data-root")


def test_model_learns_and_its_checkpoint_is_the_head(trained: Office) -> None:
    shown = trained.client.get("/v1/models/m").json()
    assert set(shown["parameters"]) == {"head.weight", "head.bias"}
    first = trained.client.get("/v1/models/m/versions/1/verification").json()["measured"]
    assert first["sets"]["audit"]["accuracy"] > 0.6  # of three classes


def test_records_are_forgotten_and_the_report_names_the_encoder(
    trained: Office, small: Any
) -> None:
    rows = trained.training_rows("letters", below=ROWS)[:10]
    request = trained.forget("letters", *(f"s{row}" for row in rows))
    assert request["status"] == "completed"
    live = trained.live("m")
    assert (live.number, live.method) == (2, "iau"), live.notes
    report = trained.client.get("/v1/models/m/versions/2/audit").json()
    told = report["encoder"]
    assert told["digest"] == small["digest"]
    assert {one["statement"] for one in told["statements"]} == {STATEMENT}
    assert any("frozen layers stay" in one for one in report["does_not_prove"])


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({}, ("encoder",)),
        ({"encoder": "0" * 64}, ("architecture.parameters.encoder", "GET /v1/encoders")),
        ({"encoder": "small"}, ("architecture.parameters.encoder",)),
    ],
)
def test_a_model_names_an_encoder_that_is_ready(
    trained: Office, parameters: dict[str, Any], words: tuple[str, ...]
) -> None:
    body = {
        "name": "other",
        "dataset": "letters",
        "architecture": {"name": "encoder_classifier", "parameters": parameters},
    }
    assert_problem(trained.client.post("/v1/models", json=body), 422, *words)


def test_texts_of_another_tokenizer_are_refused(trained: Office, small: Any) -> None:
    other = texts.tokenizer(words=texts.COMMON)
    headers = {"Content-Type": "application/json"}
    trained.client.post("/v1/tokenizers", content=other, headers=headers)
    digest = hashlib.sha256(other).hexdigest()
    texts.write_csv(trained.settings.sources / "few.csv", 30)
    with trained.runtime.session() as session:
        known = session.scalars(select(Dataset).filter_by(name="letters")).one()
        options = {**(known.input or {}), "options": {"tokenizer": digest}}
        session.add(
            Dataset(
                name="others", status="ready", source={}, revision=0, progress=1.0, rows=30,
                shape=[8], dtype="int32", classes=3, input=options, created_at=known.created_at,
            )
        )  # fmt: skip
    body = {
        "name": "other",
        "dataset": "others",
        "architecture": {
            "name": "encoder_classifier",
            "parameters": {"encoder": small["digest"]},
        },
    }
    assert_problem(trained.client.post("/v1/models", json=body), 422, "tokenizer of the encoder")
