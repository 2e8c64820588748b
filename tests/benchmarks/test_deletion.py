"""The networks behind the deletion benchmark: trained once, read when a run goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits

from benchmarks.cifar import Cifar
from benchmarks.deletion.prepared import Prepared
from unlearning.architectures import Classifier, Transform, classifier
from unlearning.core import training
from unlearning.core.examples import Examples


def network(seed: int) -> Classifier:
    return classifier(
        "mlp",
        {"inputs": 64, "hidden": [8], "classes": 10},
        Transform(1 / 16),
        generator=torch.Generator().manual_seed(seed),
    )


def digits() -> Cifar:
    x, y = load_digits(return_X_y=True)
    x, y = torch.from_numpy(x).float(), torch.from_numpy(y).long()
    parts = torch.arange(500).split([300, 100, 100])
    return Cifar(*(Examples(x, y, rows) for rows in parts))


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each training had."""
    seen: list[int] = []
    fit = training.fit

    def noted(model, train, *rest, **named):
        seen.append(len(train))
        return fit(model, train, *rest, **named)

    monkeypatch.setattr(training, "fit", noted)
    return seen


def prepared(folder: Path, *, resume: bool) -> Prepared:
    return Prepared(digits, network, 1, folder, resume)


def tell(fraction: float, doing: str = "") -> None:
    assert 0 <= fraction <= 1


def test_what_was_prepared_is_read_with_the_same_weights_anchor_and_targets(
    tmp_path: Path, trainings: list[int]
) -> None:
    first = prepared(tmp_path, resume=False)
    seconds = first.anew(tell)
    assert set(seconds) == {"training", "margins", "anchor"}
    assert trainings == [300, 150, 150]
    before = first.bench(tell)
    after = prepared(tmp_path, resume=True).bench(tell)
    assert len(trainings) == 3
    for ours, theirs in zip(before.model.parameters(), after.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(before.anchor.gradient_sum, after.anchor.gradient_sum)
    assert torch.equal(before.targets.value, after.targets.value)
    prepared(tmp_path, resume=True).anew(tell)
    assert len(trainings) == 6


def test_only_a_run_that_goes_on_reads_retrained_models(
    tmp_path: Path, trainings: list[int]
) -> None:
    rows = digits().train.subset(torch.arange(250))

    def retrain(part: str, count: int, *, resume: bool) -> list[float]:
        models, seconds = prepared(tmp_path, resume=resume).retrained(part, rows, count, tell)
        assert len(models) == count
        return seconds

    prepared(tmp_path, resume=False).anew(tell)
    trainings.clear()
    first = retrain("rows-1", 1, resume=False)
    assert retrain("rows-1", 2, resume=True)[0] == first[0]
    assert trainings == [250, 250]
    retrain("rows-45", 1, resume=False)
    assert retrain("rows-1", 2, resume=True)[0] == first[0]  # another part's are its own
    assert len(trainings) == 3
    retrain("rows-1", 1, resume=False)
    assert len(trainings) == 4
