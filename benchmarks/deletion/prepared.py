"""The trained networks on CIFAR-10, kept on disk so that a run can go on where it stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from benchmarks import cifar
from benchmarks.cifar import Cifar
from benchmarks.deletion.bench import Bench
from benchmarks.methods import files
from benchmarks.progress import Tell
from unlearning.anchored import anchor as anchors
from unlearning.anchored import margins, preparation, targets
from unlearning.anchored.margins import Splits
from unlearning.architectures import Classifier
from unlearning.core import training
from unlearning.core.examples import Examples

T = TypeVar("T")

CACHE = cifar.CACHE / "deletion"
#: Seed of the first retrained model; the base's is 0.
_RETRAINED = 100


@dataclass
class Prepared:
    """LeNet-5 with its anchor and margins, and models retrained without some rows.

    Networks lie in ``folder``. ``resume``: retrained ones that are there are not trained again.
    """

    source: Callable[[], Cifar]
    fresh: Callable[[int], Classifier]
    epochs: int
    folder: Path
    resume: bool = False
    _bench: Bench | None = field(default=None, init=False)

    @classmethod
    def on_cifar(cls, data: Path, epochs: int, *, resume: bool) -> Prepared:
        """Return the networks of the benchmark."""
        folder = CACHE / f"lenet5-{epochs}-epochs"
        return cls(lambda: cifar.load(data), cifar.lenet5, epochs, folder, resume)

    @cached_property
    def data(self) -> Cifar:
        """The rows."""
        return self.source()

    def bench(self, tell: Tell) -> Bench:
        """Return what everything starts from, from the disk or trained."""
        if self._bench is None:
            if not self._costs.exists():
                tell(0.0, "the base model is not in benchmarks/cache: training it")
                self._make(tell)
            self._bench = self._read()
        return self._bench

    def anew(self, tell: Tell) -> dict[str, float]:
        """Train the base and prepare its anchor and margins again; return the seconds of each."""
        self._costs.unlink(missing_ok=True)
        self._bench = None
        self._make(tell)
        return files.read_json(self._costs)

    def retrained(
        self, part: str, rows: Examples, count: int, tell: Tell
    ) -> tuple[list[nn.Module], list[float]]:
        """Return models trained on the retained ``rows``, and the seconds of each.

        Those of an interrupted run are read if this one resumes it.
        """
        if not self.resume:
            for path in self.folder.glob(f"{part}.retrained-*"):
                path.unlink()
        models: list[nn.Module] = []
        taken: list[float] = []
        for seed in range(_RETRAINED, _RETRAINED + count):
            weights = self.folder / f"{part}.retrained-{seed}.safetensors"
            costs = weights.with_suffix(".json")
            if not costs.exists():
                done = len(models)
                tell(done / count, f"retraining, {done + 1} of {count}")
                told = partial(_within, tell, done / count, 1 / count)
                seconds: dict[str, float] = {}
                made = _timed(seconds, "training", partial(self._train, rows, seed, told))
                files.write_model(weights, made)
                files.write_json(costs, seconds)
            models.append(files.read_model(weights, self.fresh(0)))
            taken.append(files.read_json(costs)["training"])
        return models, taken

    @property
    def _costs(self) -> Path:
        """Written last: it says that base, anchor and margins are there."""
        return self.folder / "prepared.json"

    @property
    def _recipe(self) -> training.Recipe:
        return training.Recipe(
            learning_rate=1e-3, batch_size=128, epochs=self.epochs, patience=self.epochs, alpha=0.0
        )

    def _train(
        self,
        rows: Examples,
        seed: int,
        progress: Callable[[float], None] = lambda _fraction: None,
    ) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        return training.fit(
            self.fresh(seed),
            rows,
            self.data.validation,
            recipe=self._recipe,
            generator=generator,
            progress=progress,
        ).model

    def _make(self, tell: Tell) -> None:
        data = self.data
        seconds: dict[str, float] = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        tell(0.0, "training the base model")
        told = partial(_within, tell, 0.0, 0.4)
        model = _timed(seconds, "training", lambda: self._train(data.train, 0, told))
        tell(0.4, "out-of-fold margins, one split")
        out = _timed(
            seconds,
            "margins",
            lambda: margins.prepare(
                self.fresh,
                data.train,
                data.validation,
                trainer=margins.by_recipe(self._recipe, data.validation),
                options=Splits(1, 2),
                seed=1,
                progress=partial(_within, tell, 0.4, 0.5),
            ),
        )
        tell(0.9, "preparing the anchor")
        anchor = _timed(
            seconds,
            "anchor",
            lambda: preparation.prepare(
                model, data.train, data.validation, generator=torch.Generator().manual_seed(0)
            ),
        )
        files.write_model(self.folder / "base.safetensors", model)
        files.write_tensors(self.folder / "margins.safetensors", out.to_tensors())
        files.write_tensors(self.folder / "anchor.safetensors", anchor.to_tensors())
        files.write_json(self._costs, seconds)

    def _read(self) -> Bench:
        data = self.data
        model = files.read_model(self.folder / "base.safetensors", self.fresh(0))
        out = margins.from_tensors(files.read_tensors(self.folder / "margins.safetensors"))
        found = targets.fit(
            out,
            own=margins.of_examples(model, data.train),
            held_out=margins.of_examples(model, data.validation),
        )
        anchor = anchors.from_tensors(files.read_tensors(self.folder / "anchor.safetensors"))
        return Bench(data.train, data.validation, data.test, self._train, model, anchor, found)


def _within(tell: Tell, start: float, share: float, fraction: float) -> None:
    """Tell the progress of something that is a ``share`` of a step and began at ``start``."""
    tell(start + share * fraction)


def _timed(seconds: dict[str, float], name: str, run: Callable[[], T]) -> T:
    began = time.perf_counter()
    made = run()
    seconds[name] = time.perf_counter() - began
    return made
