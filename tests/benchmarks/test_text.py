"""The benchmark of texts: rows, labels, networks on activations, and its targets."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from benchmarks.text import banking, measuring, problems
from benchmarks.text.measuring import Line
from tests import encoders, texts
from unlearning.anchored.jacobian import Jacobian


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files like those of Banking77, of three intents."""
    made = tmp_path_factory.mktemp("banking")
    for name, rows, seed in ((banking.TRAIN, 1_203, 1), (banking.TEST, 50, 2)):
        found, labels = texts.sentences(rows, seed)
        lines = [f"{text},{'abc'[label]}" for text, label in zip(found, labels, strict=True)]
        (made / name).write_text("\n".join(["text,category", *lines]) + "\n")
    return made


def test_a_share_of_the_training_labels_is_wrong_and_no_other(folder: Path) -> None:
    found = banking.read(folder, rows=None)
    assert (found.train, found.validation, len(found.texts)) == (200, banking.VALIDATION_ROWS, 1253)
    assert len(found.flipped) == 10
    assert bool((found.y == found.true)[found.train :].all())
    few = banking.read(folder, rows=100)
    assert (few.train, len(few.flipped)) == (100, 5)
    assert few.texts[:100] == found.texts[:100]


def test_sets_are_rows_with_right_and_rows_with_wrong_labels(folder: Path) -> None:
    found = banking.read(folder, rows=None)
    sets = problems.sets(found, random=30, mislabelled=6)
    assert [len(rows) for rows in sets.values()] == [30, 6]
    wrong = set(found.flipped.tolist())
    assert not wrong & set(sets["random"].tolist())
    assert set(sets["mislabelled"].tolist()) <= wrong


@pytest.fixture(scope="module")
def encoded(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> banking.Encoded:
    made = encoders.write(tmp_path_factory.mktemp("encoder"), layers=3, length=banking.LENGTH)
    return banking.Encoded(banking.read(folder, rows=100), made)


def test_upper_layers_on_activations_are_the_network_on_tokens(encoded: banking.Encoded) -> None:
    sets = problems.sets(encoded.texts, random=4, mislabelled=4)
    problem = problems.last_layers(encoded, sets, epochs=2)
    model = problem.fresh(3).eval()
    upper = model.network
    ids, kind = encoded.tokens
    rows = problem.train.positions[:7]
    whole = upper.network(*kind.input.collate(ids[rows], kind.options))
    torch.testing.assert_close(model(problem.train.x[rows]), whole, rtol=1e-4, atol=1e-5)
    assert copy.deepcopy(model).network.below is upper.below


def test_margins_on_activations_have_vectorised_gradients(encoded: banking.Encoded) -> None:
    sets = problems.sets(encoded.texts, random=4, mislabelled=4)
    problem = problems.last_layers(encoded, sets, epochs=2)
    jacobian = Jacobian(
        problem.fresh(3).eval(), problem.train.subset(torch.arange(4)), batch_size=4
    )
    (each,) = jacobian.rows(size=4)
    assert jacobian._vectorised
    weights = torch.tensor([1.0, 0, 0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(
        jacobian.transposed(weights).float(), each[0] + 2 * each[3], rtol=1e-3, atol=1e-4
    )


def line(model: str, forget: float, test: float, auc: float, ratio: float | None = None) -> Line:
    return Line("mislabelled", model, forget, 0.9, test, auc, 1.0, ratio)


def test_targets_compare_the_matched_step_with_the_retrained_models() -> None:
    lines = [
        line("do nothing", 0.95, 0.9, 0.99),
        line("calibrated", 0.8, 0.9, 0.9, 100.0),
        line("matched", 0.13, 0.885, 0.52, 60.0),
        line("retrained", 0.1, 0.9, 0.5),
        line("retrained", 0.06, 0.9, 0.5),
    ]
    found = measuring.wanted(lines)
    assert [one.value for one in found] == pytest.approx([5.0, 0.02, 1.5, 60.0])
    assert [one.met for one in found] == [True, True, False, True]
