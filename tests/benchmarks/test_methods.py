"""The methods benchmark on scikit-learn's digits: small networks, really trained and unlearned."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial import distance
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score, roc_curve

from benchmarks import results
from benchmarks.cifar import Cifar
from benchmarks.methods import (
    measuring,
    plots,
    problem,
    report,
    runs,
    settings,
    space,
    table,
    targets,
)
from benchmarks.methods.__main__ import walk
from benchmarks.methods.findings import Findings
from benchmarks.methods.ranking import Ranks
from benchmarks.methods.settings import Entry, Settings
from benchmarks.methods.table import Line, Measured
from unlearning import architectures, methods
from unlearning.architectures import Classifier, Transform
from unlearning.core import objective
from unlearning.core.examples import Examples
from unlearning.methods import Update
from unlearning.verification import ModelScores

pytestmark = pytest.mark.slow

SETTINGS = Settings(architecture="mlp", epochs=4, batch_size=32, references=2, share=0.1)
ENTRIES = [
    Entry("iau", "", "calibrated"),
    Entry("iau", "released", "authors", {"step": "adam1"}),
    Entry("fine_tune", "", "authors", {"epochs": 1}),
    Entry("ssd", "", "calibrated", {"strength": "calibrated", "importance_rows": 100}),
    Entry("amnesiac", "", "authors"),
]


def _network(seed: int) -> Classifier:
    generator = torch.Generator().manual_seed(seed)
    parameters = {"inputs": 64, "classes": 10, "hidden": [32]}
    return architectures.classifier("mlp", parameters, Transform(1 / 16), generator=generator)


@pytest.fixture(scope="module")
def digits() -> problem.Problem:
    x, y = load_digits(return_X_y=True)
    x, y = torch.from_numpy(x).float(), torch.from_numpy(y).long()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    train, validation, test = (Examples(x, y, rows) for rows in order.split([600, 200, 997]))
    test = test.subset(torch.arange(150))
    return problem.of(Cifar(train, validation, test), SETTINGS, fresh=_network)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bank")


@pytest.fixture(scope="module")
def found(digits: problem.Problem, folder: Path) -> Findings:
    # No log fits into nothing: the method that needs one must refuse, and the rest go on.
    return walk(digits, replace(SETTINGS, log_megabytes=0), folder, entries=ENTRIES)


def test_the_attack_is_that_of_scikit_learn_on_class_matched_rows(
    found: Findings, digits: problem.Problem
) -> None:
    control = found.baseline.control
    member, score, weight = _attack(control)
    expected = roc_auc_score(member, score, sample_weight=weight)
    assert found.base.auc == pytest.approx(expected, abs=1e-9)
    false, true = plots.rates(control, control)
    theirs_false, theirs_true, _ = roc_curve(
        member, score, sample_weight=weight, drop_intermediate=False
    )
    np.testing.assert_allclose(false, theirs_false[1:], atol=1e-9)
    np.testing.assert_allclose(true, theirs_true[1:], atol=1e-9)
    assert len(member) == len(digits.forget) + len(digits.data.test)


def test_distances_are_from_the_mean_of_the_references(found: Findings) -> None:
    baseline = found.baseline
    accuracy = np.mean([scores.forget.correct.mean() for scores in baseline.scores])
    auc = np.mean([numbers.auc for numbers in baseline.each])
    for line in found.lines:
        numbers = line.numbers
        assert numbers.forget_distance == pytest.approx(abs(numbers.forget - accuracy))
        assert numbers.auc_distance == pytest.approx(abs(numbers.auc - auc))


def test_divergences_are_those_of_scipy(found: Findings) -> None:
    first, second = (scores.forget.probabilities for scores in found.baseline.scores)
    expected = float(np.mean(distance.jensenshannon(first, second, base=2, axis=1) ** 2))
    assert found.baseline.band_forget == pytest.approx((expected, expected), rel=1e-4)
    assert found.baseline.each[0].divergence_forget == pytest.approx(expected, rel=1e-4)


def test_with_a_class_forgotten_test_accuracy_is_that_on_the_others(
    found: Findings, digits: problem.Problem
) -> None:
    wanted = replace(SETTINGS, kind="class", forget_class=3)
    of_class = problem.of(digits.data, wanted, fresh=_network)
    assert set(of_class.forget.labels.tolist()) == {3}
    assert 3 not in of_class.retain.labels
    scores = runs.score(found.bank.base.model, of_class)
    numbers = measuring.measure(scores, measuring.baseline([scores, scores], scores))
    others = scores.audit.label != 3
    assert numbers.test == pytest.approx(scores.audit.correct[others].mean())
    assert numbers.divergence_forget == 0.0


def test_a_method_that_refuses_is_told_and_not_ranked(found: Findings) -> None:
    assert [line.entry.method for line in found.refused] == ["amnesiac"]
    assert len(found.lines) == len(ENTRIES) - 1


def test_weights_that_are_not_finite_are_refused_and_not_ranked(
    found: Findings, digits: problem.Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = methods.get("fine_tune")

    class Diverging:
        options = method.options

        @staticmethod
        def unlearn(*given: Any, **more: Any) -> Update:
            update = method.unlearn(*given, **more)
            with torch.no_grad():
                for p in update.model.parameters():
                    p.fill_(torch.nan)
            return update

    monkeypatch.setattr(methods, "get", lambda _name: Diverging)
    bank = replace(found.bank, folder=tmp_path)
    done = runs.run(ENTRIES[2], bank, digits, SETTINGS, lambda _fraction: None)
    assert done.scores is None
    assert done.refused == "the updated weights are not finite"
    assert not list(tmp_path.glob("runs/*.safetensors"))


def test_what_is_finished_is_not_run_again(
    found: Findings, digits: problem.Problem, folder: Path
) -> None:
    added = Entry("negative_gradient", "", "authors")
    again = walk(digits, SETTINGS, folder, entries=[*ENTRIES, added], only_finished=True)
    assert [line.run.seconds for line in again.lines] == [line.run.seconds for line in found.lines]
    assert [reference.seconds for reference in again.bank.references] == [
        reference.seconds for reference in found.bank.references
    ]
    assert again.pending == ["negative_gradient (authors)"]


def test_a_method_can_be_asked_for_again(
    found: Findings, digits: problem.Problem, folder: Path
) -> None:
    before = {line.entry.name: line for line in found.lines}
    after = walk(digits, SETTINGS, folder, entries=ENTRIES[:2], again=["iau"])
    for line in after.lines:
        assert line.run.seconds != before[line.entry.name].run.seconds
        assert line.numbers == before[line.entry.name].numbers


def test_other_settings_have_models_of_their_own(digits: problem.Problem) -> None:
    changed = [replace(SETTINGS, alpha=0.005), replace(SETTINGS, epochs=5)]
    keys = [problem.key(digits, asked) for asked in (SETTINGS, *changed)]
    assert len(set(keys)) == 3
    assert problem.key(digits, replace(SETTINGS, references=3)) == keys[0]


def test_what_is_finished_lies_where_it_always_did(digits: problem.Problem) -> None:
    asked = settings.parse(["--architecture", "resnet18", "--width", "16", "--epochs", "3"])[0]
    assert problem.key(digits, asked).startswith("methods-resnet18-")
    assert len(problem.key(digits, asked)) == len("methods-resnet18-") + 12


def test_the_report_tells_all_of_it(
    found: Findings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    text = report.write(found).read_text()
    for line in (*found.lines, *found.refused):
        assert line.title in text
    assert "Gave no model" in text
    assert found.settings.command in text
    content = _json(tmp_path / f"{found.settings.name}.json")
    assert list(content)[-1] == "targets"
    assert {"name", "value", "bound", "met", "reason"} == set(content["targets"][0])
    assert len(content["methods"]) == len(ENTRIES)
    for target in content["targets"]:
        reached = target["value"] <= target["bound"] and target["reason"] is None
        assert target["met"] == reached
    pictures = {path.name for path in tmp_path.glob("*.png")}
    assert pictures == {
        f"{found.settings.name}-{what}.png" for what in ("losses", "roc", "trade-off", "space")
    }
    assert all(name in text for name in pictures)


def test_a_picture_that_fails_leaves_the_numbers(
    found: Findings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path)

    def fail(*_given: Any, **_more: Any) -> None:
        raise ValueError("input contains NaN")

    monkeypatch.setattr(space, "draw", fail)
    with pytest.raises(ValueError, match="NaN"):
        report.write(found)
    assert _json(tmp_path / f"{found.settings.name}.json")["targets"]
    assert "## Targets" in (tmp_path / f"{found.settings.name}.md").read_text()


def test_a_missed_target_says_by_how_much(found: Findings) -> None:
    kept = _without_objections(found)
    ours = table.default(kept.lines)
    missed = replace(kept, base=replace(kept.base, test=ours.numbers.test + 0.025))
    text = report.markdown(missed, targets.judge(missed), {})
    assert "| 2.500 | 0.500 | no, missed by 2 |" in text


def test_no_target_vanishes_with_its_number(found: Findings) -> None:
    names = [target.name for target in targets.judge(found)]
    ours = table.default(found.lines)
    without = [line for line in found.lines if line is not ours]
    refusal = Line(replace(ours.run, refused="the guard", scores=None), None, None)
    refused = replace(found, lines=without, refused=[*found.refused, refusal])
    pending = replace(found, lines=without, pending=["iau (calibrated)"])
    for changed, reason in ((refused, "iau gave no model: the guard"), (pending, "not been run")):
        reached = targets.judge(changed)
        assert [target.name for target in reached] == names
        for target in reached[:4]:
            assert (target.value, target.met) == (None, False)
            assert reason in target.reason
        assert reason in report.markdown(changed, reached, {})


def test_a_rank_is_no_target_met_before_every_method_has_run(found: Findings) -> None:
    first = replace(_without_objections(found), lines=_best_first(found))
    assert targets.judge(first)[0].met
    rank = targets.judge(replace(first, pending=["scrub (authors)", "msg (authors)"]))[0]
    assert (rank.value, rank.bound, rank.met) == (None, None, False)
    assert rank.reason == "2 runs missing, so no rank is final"


def test_the_only_method_is_not_the_best_of_them(
    found: Findings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    alone = replace(found, lines=[table.default(found.lines)])
    report.write(alone)
    rank = _json(tmp_path / f"{found.settings.name}.json")["targets"][0]
    assert (rank["bound"], rank["met"]) == (None, False)
    assert rank["reason"] == "no other method gave a model"


def test_an_update_that_asks_for_a_retraining_meets_nothing(found: Findings) -> None:
    first = replace(_without_objections(found), lines=_best_first(found))
    ours = first.lines[0]
    asking = replace(ours, run=replace(ours.run, retrain_because=("the loss rises",)))
    reached = targets.judge(replace(first, lines=[asking, *first.lines[1:]]))
    for before, target in zip(targets.judge(first)[:4], reached[:4], strict=True):
        assert target.value == before.value
        assert not target.met
        assert target.reason == "the update asks for a retraining: the loss rises"


def test_the_whole_time_is_that_of_every_stopwatch_kept(
    digits: problem.Problem, folder: Path
) -> None:
    found = walk(digits, SETTINGS, folder, entries=ENTRIES, only_finished=True)
    place = found.bank.folder
    names = {"base", "anchor", "reference-1", "reference-2", "restriction"}
    kept = [json.loads((place / f"{name}.json").read_text()) for name in names]
    kept += [json.loads(path.read_text()) for path in place.glob("runs/*.json")]
    for seconds in ("seconds", "cpu_seconds"):
        expected = sum(content[seconds] for content in kept)
        assert getattr(found.total(), seconds) == pytest.approx(expected)
    whole = targets.judge(found)[-1]
    assert whole.value == found.total().cpu_seconds
    assert whole.bound == 3600
    quick = replace(found, settings=replace(found.settings, quick=True))
    assert targets.judge(quick)[-1].bound == 300
    unfinished = targets.judge(replace(found, pending=["scrub (authors)"]))[-1]
    assert (unfinished.value, unfinished.met) == (None, False)


def test_what_is_unfinished_does_not_overwrite_the_record(
    found: Findings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    nothing = replace(found, lines=[], refused=[], pending=["iau (calibrated)", "ssd (authors)"])
    path = report.write(nothing)
    assert path.name == f"{found.settings.name}-unfinished.md"
    assert path.read_text().startswith("# Unfinished, 2 of 2 runs missing: ")
    assert all("-unfinished" in written.name for written in tmp_path.iterdir())


def test_references_come_from_seeds_of_their_own(found: Findings) -> None:
    states = [reference.model.state_dict() for reference in found.bank.references]
    for first, second in itertools.combinations(states, 2):
        assert any(not torch.equal(first[name], second[name]) for name in first)


def test_penultimate_features_are_what_the_head_turns_into_logits(
    found: Findings, digits: problem.Problem
) -> None:
    model = found.bank.base.model
    features, predicted = space.features(model, digits.forget)
    head = model.network[-1]
    logits = features @ head.weight.T + head.bias
    expected = objective.logits(model, digits.forget)
    torch.testing.assert_close(logits, expected)
    assert torch.equal(predicted, expected.argmax(1))


def _without_objections(found: Findings) -> Findings:
    """As if no update had said of itself that it falls short."""
    lines = [replace(line, run=replace(line.run, retrain_because=())) for line in found.lines]
    return replace(found, lines=lines)


def _best_first(found: Findings) -> list[Measured]:
    """The lines with the default's made the best of all, without objections."""
    lines = _without_objections(found).lines
    ours = table.default(lines)
    best = replace(ours, ranks=Ranks(1, 1, 1))
    return [best, *(line for line in lines if line is not ours)]


def _json(path: Path) -> Any:
    """As strict readers see it, to whom ``NaN`` and ``Infinity`` are no numbers."""
    return json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(word))


def _attack(
    scores: ModelScores,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, −losses and weights that give never-seen rows the class mix of the forget rows."""
    forget, audit = scores.forget, scores.audit
    weight = np.zeros(len(audit))
    for label in range(10):
        here = audit.label == label
        weight[here] = (forget.label == label).mean() / here.sum()
    member = np.concatenate([np.ones(len(forget)), np.zeros(len(audit))])
    score = -np.concatenate([forget.loss, audit.loss])
    return member, score, np.concatenate([np.full(len(forget), 1 / len(forget)), weight])
