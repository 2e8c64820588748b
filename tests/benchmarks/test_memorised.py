import copy
import math

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from benchmarks import results
from benchmarks.memorised import measures, models, pictures, problems, report, rows, stacked
from benchmarks.memorised.measures import Line
from benchmarks.memorised.rows import Margins, Rows
from unlearning.anchored import margins
from unlearning.anchored.margins import Splits
from unlearning.core.examples import Examples


def _normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_klom_is_the_divergence_of_two_normal_distributions():
    ours, theirs = 2 + 0.5 * _normal(4000, 1, seed=1), 1 + 2 * _normal(4000, 1, seed=2)
    q = torch.distributions.Normal(ours.mean(), ours.std())
    p = torch.distributions.Normal(theirs.mean(), theirs.std())
    expected = float(torch.distributions.kl_divergence(q, p))
    assert float(measures.klom(ours, theirs)) == pytest.approx(expected)
    assert float(measures.klom(theirs, theirs)) == pytest.approx(0, abs=1e-12)
    assert float(measures.klom(ours + 100, theirs)) == measures.KLOM_CAP


def test_auc_is_scikit_learns():
    forget, unseen = (
        _normal(30, seed=1).round(decimals=1),
        0.5 + _normal(50, seed=2).round(decimals=1),
    )
    truth = [1] * 30 + [0] * 50
    expected = roc_auc_score(truth, torch.cat([forget, unseen]))
    assert measures.auc(forget, unseen) == pytest.approx(expected)


def test_networks_trained_together_are_those_trained_alone(monkeypatch):
    monkeypatch.setattr(stacked, "EPOCHS", 2)
    x = 8 + 4 * _normal(120, 64, seed=3).float()
    rows = Examples(x, torch.randint(10, (120,), generator=torch.Generator().manual_seed(4)))
    parts = [rows.subset(torch.arange(0, 100)), rows.subset(torch.arange(20, 120))]
    parts.append(rows.subset(torch.arange(60)))
    models = [problems.fresh(s) for s in range(3)]
    alone = copy.deepcopy(models)
    stacked.fit(
        [(m, r, problems.generator(s)) for s, (m, r) in enumerate(zip(models, parts, strict=True))]
    )
    for seed, (model, own) in enumerate(zip(alone, parts, strict=True)):
        optimiser = torch.optim.Adam(model.parameters(), lr=stacked.LEARNING_RATE)
        generator = problems.generator(seed)
        for _ in range(2):
            for here in torch.randperm(len(own), generator=generator).split(stacked.BATCH):
                batch = own.subset(here)
                loss = nn.functional.cross_entropy(model(batch.x[batch.positions]), batch.labels)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        for ours, theirs in zip(models[seed].parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_out_of_fold_margins_are_of_networks_that_never_saw_the_row(monkeypatch):
    monkeypatch.setattr(stacked, "EPOCHS", 1)
    clean = problems._clean()
    seen = []
    fit = stacked.fit

    def noted(trainings):
        seen.extend(trainings)
        fit(trainings)

    monkeypatch.setattr(stacked, "fit", noted)
    (found,) = problems.out_of_fold(clean, Splits(1, 2), [3])
    assert found.complete
    for fold, (model, trained_on, _) in enumerate(seen):
        out = (found.fold[0] == fold).nonzero()[:, 0]
        assert not set(out.tolist()) & set(trained_on.positions.tolist())
        torch.testing.assert_close(
            found.values[0, out],
            margins.of_examples(model, clean.train.subset(out)),
            rtol=1e-3,
            atol=1e-5,
        )


def test_flipped_rows_and_no_others_have_another_label():
    clean = problems._clean()
    data, rows = problems._flipped(clean, "flipped", 40)
    assert len(rows) == 40
    wrong = (data.train.y != data.true).nonzero()[:, 0]
    assert set(wrong.tolist()) == set(rows.tolist())


def _line(method, **numbers):
    values = dict.fromkeys(Line.__dataclass_fields__, 0.0)
    return Line(**{**values, "problem": "p", "method": method, "models": 3, **numbers})


def test_targets_are_met_and_missed_as_their_numbers_say():
    lines = [
        _line(report.BASE, klom_median=8.0, test_accuracy=0.98),
        _line(report.TODAY, klom_95=3.0),
        _line(report.RETRAINED, forget_accuracy=0.5, calibrated_auc=0.5, test_accuracy=0.97),
    ]
    good = {"klom_median": 2.0, "klom_95": 3.0, "test_accuracy": 0.97}
    met = report.targets(
        [*lines, _line(report.MATCHED, forget_accuracy=0.46, calibrated_auc=0.52, **good)]
    )
    assert [t.met for t in met] == [True] * 5
    bad = {"klom_median": 2.1, "klom_95": 3.1, "test_accuracy": 0.969}
    missed = report.targets(
        [*lines, _line(report.MATCHED, forget_accuracy=0.44, calibrated_auc=0.54, **bad)]
    )
    assert [t.met for t in missed] == [False] * 5
    assert all(math.isfinite(t.value) for t in missed)


def _margins(*values: float) -> Margins:
    given = list(values)
    half = [value / 2 for value in given]
    return Margins(given, [value + 3 for value in given], half, given, half)


def test_rows_of_other_problems_stay_beside_those_that_are_measured_again(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    first = Rows("first", _margins(1.0, -2.0), _margins(4.0))
    second = Rows("second", _margins(5.0), _margins(6.0))
    rows.keep("rows", {"a": first, "b": first})
    rows.keep("rows", {"b": second})
    assert rows.read("rows") == {"a": first, "b": second}


@pytest.mark.seconds
def test_picture_is_drawn_from_the_kept_margins_and_says_how_far_they_are(tmp_path):
    shown = Rows("title", _margins(1.0, -2.0), _margins(4.0, math.inf))
    assert pictures.distance(shown.forgotten, "before") == 3
    assert pictures.distance(shown.forgotten, "matched") == 0
    pictures.draw(shown, tmp_path / "drawn.png")
    assert (tmp_path / "drawn.png").read_bytes().startswith(b"\x89PNG")


def test_margins_of_a_problem_are_those_of_its_models(monkeypatch, tmp_path):
    monkeypatch.setattr(stacked, "EPOCHS", 1)
    monkeypatch.setattr(models, "CACHE", tmp_path)
    problem = _random_problem()
    found = rows.measure(problem, Splits(2, 2))
    (base,) = models.bases(problem.data, 1, Splits(2, 2))
    (retrained,) = models.retrained(problem, 1)
    assert (len(found.forgotten.before), len(found.retained.before)) == (50, rows.RETAINED)
    for name, model in (("before", base.model), ("retrained", retrained)):
        expected = margins.of_examples(model, problem.forget).tolist()
        assert getattr(found.forgotten, name) == pytest.approx(expected, abs=0.006)
    assert found.forgotten.matched != found.forgotten.calibrated != found.forgotten.before


def _random_problem() -> problems.Problem:
    drawn = torch.randperm(problems.TRAIN, generator=problems.generator(8))
    return problems.Problem("random", "50 random clean rows", problems._clean(), drawn[:50])
