"""The rows to forget, the rows to keep, the rows that judge, and fresh networks for them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch

from benchmarks import cifar
from benchmarks.cifar import Cifar
from benchmarks.methods.settings import Settings
from unlearning import architectures
from unlearning.architectures import Classifier
from unlearning.core.examples import Examples

#: Retained rows that retain accuracy is measured on.
RETAIN_ROWS = 10_000
_ROWS_SEED = 0


@dataclass(frozen=True)
class Problem:
    """What is to be forgotten, from which training rows, and how it is judged."""

    data: Cifar
    forget: Examples
    retain: Examples
    #: Retained rows that are scored: a sample.
    retain_sample: Examples
    #: An untrained network from a seed.
    fresh: Callable[[int], Classifier]

    def digest(self) -> str:
        """Of all rows and which of them are forgotten."""
        digest = hashlib.sha256()
        for examples in (self.data.train, self.data.validation, self.data.test, self.forget):
            digest.update(examples.positions.numpy().tobytes())
        for storage in {id(e.x): e for e in (self.data.train, self.data.test)}.values():
            digest.update(storage.x[:].contiguous().numpy().data)
            digest.update(storage.y.numpy().data)
        return digest.hexdigest()


def load(settings: Settings) -> Problem:
    """The problem on CIFAR-10."""
    data = _fewer(cifar.load(settings.data), settings.rows)
    return of(data, settings, fresh=lambda seed: _network(settings, seed))


def of(data: Cifar, settings: Settings, *, fresh: Callable[[int], Classifier]) -> Problem:
    """The problem on any rows."""
    forget, retain = _sets(data.train, settings)
    sample = retain.sample(RETAIN_ROWS, generator=torch.Generator().manual_seed(_ROWS_SEED))
    return Problem(data, forget, retain, sample, fresh)


def key(problem: Problem, settings: Settings) -> str:
    """Names the folder of everything trained for this problem with these settings."""
    content = json.dumps([settings.identity(), problem.digest()], sort_keys=True)
    return f"{settings.family}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def _sets(train: Examples, settings: Settings) -> tuple[Examples, Examples]:
    if settings.kind == "class":
        gone = train.labels == settings.forget_class
        return train.subset(gone.nonzero()[:, 0]), train.subset((~gone).nonzero()[:, 0])
    count = round(settings.share * len(train))
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(_ROWS_SEED))
    return train.subset(order[:count].sort().values), train.subset(order[count:].sort().values)


def _fewer(data: Cifar, rows: int | None) -> Cifar:
    """Fewer training rows, and as many others as suit them."""
    if rows is None:
        return data
    wanted = {"train": rows, "validation": max(500, rows // 4), "test": max(2000, rows)}
    cut = {}
    for field in fields(data):
        examples = getattr(data, field.name)
        generator = torch.Generator().manual_seed(_ROWS_SEED)
        cut[field.name] = examples.sample(wanted[field.name], generator=generator)
    return Cifar(**cut)


def _network(settings: Settings, seed: int) -> Classifier:
    architecture = architectures.get(settings.architecture)
    known = {field.name for field in fields(architecture.parameters)}
    sizes = {
        "channels": 3,
        "image_height": 32,
        "image_width": 32,
        "classes": cifar.CLASSES,
        "width": settings.width,
    }
    parameters = {k: v for k, v in sizes.items() if k in known and v is not None}
    generator = torch.Generator().manual_seed(seed)
    return architectures.classifier(
        settings.architecture, parameters, cifar.TRANSFORM, generator=generator
    )
