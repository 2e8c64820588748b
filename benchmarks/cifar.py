"""CIFAR-10 for the benchmarks, read once from Parquet and kept as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unlearning.architectures import Classifier, Transform, classifier
from unlearning.core.examples import Examples
from workers import readers

CACHE = Path(__file__).parent / "cache"
CLASSES = 10
#: Mean and standard deviation of the training pixels in [0, 1], per channel.
TRANSFORM = Transform(1 / 255, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
SPLIT_SEED = 0
VALIDATION_ROWS = 5_000


@dataclass(frozen=True)
class Cifar:
    """45,000 training rows, 5,000 for validation and targets, 10,000 never seen."""

    train: Examples
    validation: Examples
    test: Examples


def load(folder: Path) -> Cifar:
    """CIFAR-10 from ``cifar10-train.parquet`` and ``cifar10-test.parquet`` in ``folder``."""
    x, y = _arrays(folder / "cifar10-train.parquet")
    test_x, test_y = _arrays(folder / "cifar10-test.parquet")
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(SPLIT_SEED))
    held_out, trained = order[:VALIDATION_ROWS], order[VALIDATION_ROWS:]
    return Cifar(
        train=Examples(x, y, trained.sort().values),
        validation=Examples(x, y, held_out.sort().values),
        test=Examples(test_x, test_y, torch.arange(len(test_y))),
    )


def lenet5(seed: int) -> Classifier:
    """An untrained LeNet-5 for 3×32×32 images."""
    parameters = {"channels": 3, "image_height": 32, "image_width": 32, "classes": CLASSES}
    generator = torch.Generator().manual_seed(seed)
    return classifier("lenet5", parameters, TRANSFORM, generator=generator)


def _arrays(path: Path) -> tuple[Tensor, Tensor]:
    kept = CACHE / f"{path.stem}.npz"
    if not kept.exists():
        if not path.exists():
            raise SystemExit(f"{path} is not there; name the folder of the files with --data")
        chunks = list(readers.open_source(path).chunks)
        CACHE.mkdir(exist_ok=True)
        np.savez(
            kept,
            x=np.concatenate([chunk.x for chunk in chunks]),
            y=np.concatenate([chunk.labels for chunk in chunks]),
        )
    with np.load(kept) as arrays:
        return torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"].astype(np.int64))
