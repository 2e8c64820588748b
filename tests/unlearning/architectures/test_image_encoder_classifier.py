"""Classifiers on image encoders, against the library that the encoders come from."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests import encoders
from unlearning import architectures, inputs
from unlearning.anchored.jacobian import Jacobian
from unlearning.architectures import ImageEncoder, Transform
from unlearning.core import objective, task
from unlearning.core.examples import Examples
from unlearning.errors import WrongOptions

HEIGHT, WIDTH = 20, 30
PARTS: list[dict[str, Any]] = [
    {"last_layers": 0},
    {"last_layers": 1},
    {"trained": "lora", "lora_rank": 3},
    {"trained": "all"},
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoders.write_images(tmp_path_factory.mktemp("vit"))


def opened(folder: Path, *, prepared: Any = None, **changed: Any) -> ImageEncoder:
    config = json.loads((folder / "config.json").read_text()) | changed
    preprocessor = json.loads((folder / "preprocessor_config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    encoder = architectures.encoder(config, weights, preprocessor | (prepared or {}))
    assert isinstance(encoder, ImageEncoder)
    return encoder


def classifier(encoder: architectures.Encoder, **more: Any) -> architectures.Classifier:
    sizes = {"image_height": HEIGHT, "image_width": WIDTH, "channels": 3, "classes": 3}
    return architectures.classifier(
        "image_encoder_classifier",
        {"encoder": "0" * 64, **sizes, **more},
        Transform(1 / 255),
        kind=inputs.kind("image", {}),
        generator=torch.Generator().manual_seed(1),
        files={"encoder": encoder},
    ).eval()


def images(height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (4, 3, height, width), generator=generator, dtype=torch.uint8)


def prepared_by_the_library(x: Tensor, **changed: Any) -> Tensor:
    processor = encoders.image_processor(**changed)
    arrays = [one.permute(1, 2, 0).numpy() for one in x]
    pixels: Tensor = processor(arrays, return_tensors="pt")["pixel_values"]
    return pixels


@pytest.mark.parametrize("part", PARTS, ids=str)
@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_logits_are_those_of_the_librarys_own_encoder(
    found: Path, part: dict[str, Any], pooling: str
) -> None:
    from transformers import AutoModel

    made = classifier(opened(found), pooling=pooling, **part)
    known = AutoModel.from_pretrained(found, local_files_only=True).eval()
    x = images(encoders.IMAGE_SIDE, encoders.IMAGE_SIDE)
    h = known(pixel_values=prepared_by_the_library(x)).last_hidden_state
    expected = made.network.head(h[:, 0] if pooling == "first" else h.mean(1))
    torch.testing.assert_close(made(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("resample", [2, 3])
@pytest.mark.parametrize("size", [(20, 30), (9, 11), (16, 40)])
def test_images_are_prepared_as_the_library_prepares_them(
    tmp_path: Path, resample: int, size: tuple[int, int]
) -> None:
    encoder = opened(encoders.write_images(tmp_path, resample=resample))
    x = images(*size)
    expected = prepared_by_the_library(x, resample=resample)
    # Pillow rounds to bytes after each of its two passes, once for each axis.
    deviation = min(encoder.preparation.std)
    torch.testing.assert_close(
        encoder.preparation(x / 255), expected, rtol=0, atol=2.01 / 255 / deviation
    )


@pytest.mark.parametrize(
    "changed", [{"do_normalize": False}, {"do_rescale": False}, {"rescale_factor": 1 / 127.5}]
)
def test_steps_that_are_left_out_or_changed_are(tmp_path: Path, changed: dict[str, Any]) -> None:
    encoder = opened(encoders.write_images(tmp_path, **changed))
    x = images(encoders.IMAGE_SIDE, encoders.IMAGE_SIDE)
    expected = prepared_by_the_library(x, **changed)
    torch.testing.assert_close(encoder.preparation(x / 255), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("part", PARTS, ids=str)
def test_margins_have_vectorised_gradients(found: Path, part: dict[str, Any]) -> None:
    made = classifier(opened(found), **part)
    x, y = images(), torch.arange(4) % 3
    jacobian = Jacobian(made, Examples(x, y), batch_size=2)
    each = torch.cat(list(jacobian.rows(size=2)))
    assert jacobian._vectorised
    for row in range(len(x)):
        phi = task.margin(made(x[row : row + 1]), y[row : row + 1])
        grads = torch.autograd.grad(phi, list(jacobian.parameters.values()))
        expected = torch.cat([g.flatten() for g in grads])
        torch.testing.assert_close(each[row], expected, rtol=1e-3, atol=1e-4)


def test_only_the_trained_part_is_in_checkpoints_and_copied(found: Path) -> None:
    encoder = opened(found)
    parts = [classifier(encoder, **part).network for part in PARTS]
    names = [{name.split(".")[0] for name in one.state_dict()} for one in parts]
    assert names == [{"head"}, {"layers", "head"}, {"adapters", "head"}, {
        "stem", "layers", "norm", "head"
    }]  # fmt: skip
    head = 3 * (encoders.IMAGE_WIDTH + 1)
    assert objective.flatten(parts[-1]).numel() == encoder.parameters + head
    assert copy.deepcopy(parts[0]).encoder is encoder


@pytest.mark.parametrize(
    ("prepared", "words"),
    [
        ({"do_center_crop": True}, "do_center_crop"),
        ({"size": {"shortest_edge": 16}}, "resize to the 16 × 16"),
        ({"size": 32}, "resize to the 16 × 16"),
        ({"resample": 0}, "resample"),
        ({"resample": [2]}, "resample"),
        ({"image_mean": [0.5]}, "3 numbers as image_mean"),
        ({"image_mean": [10**400] * 3}, "3 numbers as image_mean"),
        ({"image_std": [0.5, 0.5, 0]}, "above 0"),
        ({"image_std": [0.5, 0.5, 1e-50]}, "above 0"),
        ({"image_std": ["a", "b", "c"]}, "3 numbers as image_std"),
        ({"rescale_factor": "x"}, "rescale_factor"),
        ({"rescale_factor": 1e37}, "rescale_factor"),
    ],
)
def test_a_preprocessing_that_is_not_done_here_is_refused(
    found: Path, prepared: dict[str, Any], words: str
) -> None:
    with pytest.raises(WrongOptions, match=words):
        opened(found, prepared=prepared)


def test_an_encoder_of_the_other_kind_is_refused(found: Path, tmp_path: Path) -> None:
    with pytest.raises(WrongOptions, match="takes images"):
        architectures.classifier(
            "encoder_classifier", {"encoder": "0" * 64}, None, files={"encoder": opened(found)}
        )
    folder = encoders.write(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    texts = architectures.encoder(config, load_file(folder / "model.safetensors"))
    with pytest.raises(WrongOptions, match="takes texts"):
        classifier(texts)


def test_images_with_other_channels_are_refused(found: Path) -> None:
    with pytest.raises(WrongOptions, match="1 channels"):
        classifier(opened(found), channels=1)


def test_an_image_encoder_needs_its_preprocessing(found: Path) -> None:
    config = json.loads((found / "config.json").read_text())
    with pytest.raises(WrongOptions, match=r"preprocessor_config\.json"):
        architectures.encoder(config, load_file(found / "model.safetensors"))
