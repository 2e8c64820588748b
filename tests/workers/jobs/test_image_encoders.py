"""Encoders of images from their directory to forgotten records, over the API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import encoders, texts
from tests.service.api.callers import assert_problem
from tests.workers.office import STATEMENT, Office, opened
from workers.compute.process import ComputeProcess

ROWS = 240


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory, compute: ComputeProcess) -> Iterator[Office]:
    with opened(tmp_path_factory.mktemp("office"), compute) as found:
        yield found


@pytest.fixture(scope="module")
def vit(office: Office) -> Any:
    encoders.write_images(office.settings.sources / "vit")
    shown = office.add_encoder("vit")
    assert shown["status"] == "ready", shown["error"]
    return shown


@pytest.fixture(scope="module")
def faces(office: Office) -> Office:
    """Images of three classes, which differ in colour, of another size than the encoder's."""
    random = np.random.default_rng(3)
    y = np.arange(ROWS) % 3
    x = random.integers(0, 150, (ROWS, 3, 12, 20))
    x[np.arange(ROWS), y] += 100
    ids = np.array([f"s{row}" for row in range(ROWS)])
    np.savez(office.settings.sources / "faces.npz", x=x.astype(np.uint8), y=y, id=ids)
    assert office.add("faces", "faces.npz")["status"] == "ready"
    return office


def test_encoder_is_shown_with_the_size_of_its_images(vit: Any) -> None:
    assert vit["facts"]["kind"] == "vit"
    sizes = [vit["facts"][name] for name in ("channels", "image_height", "image_width")]
    assert sizes == [3, encoders.IMAGE_SIDE, encoders.IMAGE_SIDE]
    assert (vit["facts"]["vocabulary"], vit["tokenizer"]) == (None, None)


@pytest.mark.parametrize("part", [{}, {"trained": "lora", "lora_rank": 2}], ids=str)
def test_records_are_forgotten_and_the_report_names_the_encoder(
    faces: Office, vit: Any, part: dict[str, Any]
) -> None:
    name = part.get("trained", "head")
    faces.train(
        name,
        "faces",
        "image_encoder_classifier",
        parameters={"encoder": vit["digest"], **part},
        recipe={"epochs": 6, "learning_rate": 0.02, "alpha": 0},
    )
    measured = faces.client.get(f"/v1/models/{name}/versions/1/verification").json()["measured"]
    assert measured["sets"]["audit"]["accuracy"] > 0.6  # of three classes
    rows = faces.training_rows("faces", below=ROWS)[:5]
    request = faces.forget("faces", *(f"s{row}" for row in rows))
    assert request["status"] == "completed"
    live = faces.live(name)
    assert (live.number, live.method) == (2, "iau"), live.notes
    report = faces.client.get(f"/v1/models/{name}/versions/2/audit").json()
    assert report["encoder"]["digest"] == vit["digest"]
    assert {one["statement"] for one in report["encoder"]["statements"]} == {STATEMENT}
    assert faces.client.post(f"/v1/models/{name}:withdraw", json={}).status_code == 202


def without_preprocessor(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()


def of_another_size(folder: Path) -> None:
    changed = json.loads((folder / "preprocessor_config.json").read_text())
    changed["size"] = {"height": 32, "width": 32}
    (folder / "preprocessor_config.json").write_text(json.dumps(changed))


def with_a_tokenizer(folder: Path) -> None:
    without_preprocessor(folder)
    (folder / "tokenizer.json").write_bytes(texts.tokenizer())


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (without_preprocessor, "preprocessor_config.json"),
        (of_another_size, "resize to the 16"),
        (with_a_tokenizer, "needs its preprocessor_config.json"),
        (lambda folder: (folder / "preprocessor_config.json").write_text("["), "is not a JSON"),
    ],
)
def test_files_that_cannot_be_used_are_one_error(
    office: Office, spoil: Any, words: str, request: pytest.FixtureRequest
) -> None:
    name = f"bad-{request.node.callspec.indices['spoil']}"
    spoil(encoders.write_images(office.settings.sources / name))
    shown = office.add_encoder(name)
    assert shown["status"] == "failed"
    assert words in shown["error"]


def test_an_encoder_of_the_other_kind_of_rows_is_refused(faces: Office, vit: Any) -> None:
    encoders.write(faces.settings.sources / "words")
    words = faces.add_encoder("words")
    body = {
        "name": "other",
        "dataset": "faces",
        "architecture": {
            "name": "image_encoder_classifier",
            "parameters": {"encoder": words["digest"]},
        },
    }
    assert_problem(faces.client.post("/v1/models", json=body), 422, "takes texts")
    texts.write_csv(faces.settings.sources / "few.csv", 30)
    given = {"name": "features", "options": {"encoder": vit["digest"]}}
    source = {"name": "few", "source": {"path": "few.csv"}, "input": given}
    assert_problem(faces.client.post("/v1/datasets", json=source), 422, "takes images")
    shown = faces.add(
        "few", "few.csv",
        input={"name": "text", "options": {"tokenizer": words["tokenizer"], "max_length": 8}},
    )  # fmt: skip
    assert shown["status"] == "ready"
    body |= {
        "dataset": "few",
        "architecture": {"name": "encoder_classifier", "parameters": {"encoder": vit["digest"]}},
    }
    assert_problem(faces.client.post("/v1/models", json=body), 422, "takes images")
