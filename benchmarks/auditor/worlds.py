"""Worlds: a table with wrong labels, a network that knows it by heart, and honest retrains.

Every split of a world has the same share of wrong labels, so that never-seen rows are like the
forgotten ones. The networks are those of ``benchmarks.memorised``: all are trained until nearly
every row is classified as its label says, many at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import cifar
from benchmarks.memorised import stacked
from benchmarks.methods import files
from unlearning import architectures
from unlearning.anchored import margins
from unlearning.anchored.margins import OutOfFold, Splits
from unlearning.architectures import Classifier, Transform
from unlearning.core.examples import Examples

CACHE = cifar.CACHE / "auditor"
#: Folder of CIFAR-10, and how many of its test images are used.
DATA = Path("data")
_IMAGES = 2500
#: Seeds of honest retrains, and of the models for margins.
_RETRAINED, _MARGINS = 5_000, 10_000


@dataclass(frozen=True)
class Source:
    """A data set with the sizes of its splits."""

    name: str
    title: str
    load: Callable[[], tuple[Tensor, Tensor]]
    train: int
    validation: int
    forget: int
    hidden: tuple[int, ...]
    #: Share of wrong labels in every split.
    wrong: float
    transform: Transform

    def fresh(self, seed: int, x: Tensor, classes: int) -> Classifier:
        """Return the untrained network."""
        return architectures.classifier(
            "mlp",
            {"inputs": x.shape[1], "hidden": self.hidden, "classes": classes},
            self.transform,
            generator=torch.Generator().manual_seed(seed),
        )


def _digits() -> tuple[Tensor, Tensor]:
    found = load_digits()
    return torch.tensor(found.data, dtype=torch.float32), torch.tensor(found.target)


def _cifar() -> tuple[Tensor, Tensor]:
    """Return the first test images of CIFAR-10 at 8 × 8 pixels, as rows of 192 numbers."""
    found = cifar.load(DATA).test
    x = found.x[:_IMAGES].reshape(-1, 3, 32, 32).float()
    return functional.avg_pool2d(x, 4).flatten(1), found.y[:_IMAGES]


SOURCES = {
    "digits": Source(
        "digits",
        "digits, 20 % of the labels wrong, 1,000 training rows",
        _digits, 1000, 250, 200, (256, 128), 0.2, Transform(1 / 16, (0.3,), (0.4,)),
    ),
    "flipped": Source(
        "flipped",
        "digits, 4 % of the labels wrong, 1,000 training rows",
        _digits, 1000, 250, 200, (256, 128), 0.04, Transform(1 / 16, (0.3,), (0.4,)),
    ),
    "cifar": Source(
        "cifar",
        "CIFAR-10 at 8 × 8 pixels, 1,000 training rows",
        _cifar, 1000, 250, 200, (256, 128), 0.0, Transform(1 / 255, (0.47,), (0.2,)),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class World:
    """One draw: the splits, and several sets of rows to forget, (sets, f) int64 in ``train``."""

    source: Source
    seed: int
    train: Examples
    validation: Examples
    audit: Examples
    wrong: Tensor
    sets: Tensor

    @property
    def classes(self) -> int:
        """The number of classes."""
        return int(self.train.y.max()) + 1

    def fresh(self, seed: int) -> Classifier:
        """Return the untrained network."""
        return self.source.fresh(seed, self.train.x[:], self.classes)

    def retain(self, which: int) -> Examples:
        """Return the training rows that are not in the set ``which``."""
        kept = torch.ones(len(self.train), dtype=torch.bool)
        kept[self.sets[which]] = False
        return self.train.subset(kept.nonzero()[:, 0])


def drawn(source: Source, seed: int, *, sets: int) -> World:
    """Draw splits, wrong labels and sets of rows to forget."""
    generator = torch.Generator().manual_seed(seed)
    x, y = source.load()
    y = y.clone()
    classes = int(y.max()) + 1
    wrong = torch.rand(len(y), generator=generator) < source.wrong
    shift = torch.randint(1, classes, (int(wrong.sum()),), generator=generator)
    y[wrong] = (y[wrong] + shift) % classes
    order = torch.randperm(len(y), generator=generator)
    held = source.train + source.validation
    train, validation, audit = order[: source.train], order[source.train : held], order[held:]
    chosen = torch.stack(
        [torch.randperm(source.train, generator=generator)[: source.forget] for _ in range(sets)]
    )
    return World(
        source,
        seed,
        Examples(x, y, train),
        Examples(x, y, validation),
        Examples(x, y, audit),
        wrong,
        chosen,
    )


@dataclass(frozen=True)
class Trained:
    """The networks of a world: base, one honest retrain for each set, out-of-fold margins."""

    world: World
    base: Classifier
    retrained: list[Classifier]
    out: OutOfFold


def trained(
    worlds: Sequence[World], splits: Splits, *, cache: Path | None = CACHE
) -> list[Trained]:
    """Return the networks of all worlds; those that are not on the disk are trained together."""
    asked: list[stacked.Training] = []
    missing = [w for w in worlds if cache is None or not _path(cache, w, splits).exists()]
    made = [_asked(world, splits, asked) for world in missing]
    stacked.fit(asked)
    found = {world.seed: finish() for world, finish in zip(missing, made, strict=True)}
    if cache is not None:
        for world in missing:
            _keep(_path(cache, world, splits), found[world.seed])
    return [
        found[w.seed] if w.seed in found else _kept(_path(cache or CACHE, w, splits), w)
        for w in worlds
    ]


def _asked(world: World, splits: Splits, asked: list[stacked.Training]) -> Callable[[], Trained]:
    """Note a world's trainings in ``asked``; return what to call when they are done."""

    def note(model: Classifier, rows: Examples, generator: torch.Generator) -> None:
        asked.append((model, rows, generator))

    base = world.fresh(world.seed)
    note(base, world.train, _generator(world.seed))
    retrained = []
    for which in range(len(world.sets)):
        seed = _RETRAINED + 100 * world.seed + which
        retrained.append(world.fresh(seed))
        note(retrained[-1], world.retain(which), _generator(seed))
    first = len(asked)
    prepare(world, splits, lambda model, rows, generator: note(model, rows, generator))
    ours = iter(asked[first:])

    def recall(model: Classifier, _rows: Examples, _generator: torch.Generator) -> None:
        model.load_state_dict(next(ours)[0].state_dict())
        model.eval()

    return lambda: Trained(world, base, retrained, prepare(world, splits, recall))


def prepare(
    world: World,
    splits: Splits,
    train: Callable[[Classifier, Examples, torch.Generator], None],
) -> OutOfFold:
    """Return out-of-fold margins of the world by ``margins.prepare``."""

    def trainer(
        model: nn.Module,
        rows: Examples,
        generator: torch.Generator,
        _: Callable[[float], None],
    ) -> int:
        assert isinstance(model, Classifier)
        train(model, rows, generator)
        return stacked.EPOCHS

    return margins.prepare(
        world.fresh,
        world.train,
        world.validation,
        never_seen=world.audit,
        trainer=trainer,
        options=splits,
        seed=_MARGINS + world.seed,
    )


def _keep(path: Path, found: Trained) -> None:
    named = {f"margins.{name}": t for name, t in found.out.to_tensors().items()}
    models = {"base": found.base} | {f"retrained-{k}": m for k, m in enumerate(found.retrained)}
    for name, model in models.items():
        named |= {f"{name}.{key}": t.contiguous() for key, t in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_tensors(path, named)


def _kept(path: Path, world: World) -> Trained:
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in files.read_tensors(path).items():
        first, _, rest = name.partition(".")
        groups.setdefault(first, {})[rest] = tensor

    def model(name: str) -> Classifier:
        made = world.fresh(0)
        made.load_state_dict(groups[name])
        return made.eval()

    retrained = [model(f"retrained-{k}") for k in range(len(world.sets))]
    return Trained(world, model("base"), retrained, margins.from_tensors(groups["margins"]))


def _path(cache: Path, world: World, splits: Splits) -> Path:
    """Return a path that rows, labels, sets and the recipe decide."""
    told = hashlib.sha256()
    for tensor in (world.train.positions, world.train.labels, world.sets, world.audit.positions):
        told.update(tensor.numpy().tobytes())
    told.update(repr((stacked.EPOCHS, stacked.BATCH, stacked.LEARNING_RATE, splits)).encode())
    return cache / f"{world.source.name}-{world.seed}-{told.hexdigest()[:12]}.safetensors"


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
