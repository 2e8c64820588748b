"""The refitted last layer against its definition, on networks of known weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import nn

from tests.unlearning.verification.evidence import drawn
from unlearning.core.examples import Examples
from unlearning.verification import Criteria, Verdict, parse_criteria, verify
from unlearning.verification.attacks import features, probe
from unlearning.verification.attacks.probe import ClassProbe
from unlearning.verification.attacks.refit import Refit, Rows
from unlearning.verification.gates import refit_membership
from unlearning.verification.measures import Metric
from unlearning.verification.statistics.estimates import exactly


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_features_are_what_the_last_linear_layer_receives() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Dropout(0.9), nn.Linear(5, 3)).train()
    examples = Examples(normal(7, 6, seed=1), torch.zeros(7, dtype=torch.int64))
    found = features.penultimate(network, examples, batch_size=3)
    assert found is not None
    assert torch.equal(found, network[0](examples.x).relu().double())
    assert network.training


def test_a_network_without_one_vector_per_row_at_its_end_has_none() -> None:
    examples = Examples(normal(4, 2, 3, seed=1), torch.zeros(4, dtype=torch.int64))
    every_step = nn.Sequential(nn.Linear(3, 5), nn.Flatten())
    assert features.penultimate(every_step, examples) is None
    no_linear = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Flatten())
    assert features.penultimate(no_linear, examples) is None


def test_the_fitted_layer_is_ridge_regression_on_standardised_features() -> None:
    x, y = normal(40, 4, seed=2).double(), normal(40, 2, seed=3).double()
    new = normal(9, 4, seed=4).double()
    z = (x - x.mean(0)) / x.std(0)
    expected = Ridge(alpha=0.01 * 40, solver="cholesky").fit(z, y)
    found = features.fitted(x, y).outputs(new)
    assert found.numpy() == pytest.approx(expected.predict((new - x.mean(0)) / x.std(0)), abs=1e-6)
    constant = torch.cat([x, torch.ones(40, 1).double()], 1)
    unlike = torch.cat([new, 100 * torch.ones(9, 1).double()], 1)
    assert torch.allclose(features.fitted(constant, y).outputs(unlike), found, atol=1e-9)


class Switch(nn.Module):
    """Two features of the input, and one more that is 1 for inputs above 5 alone."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.last = nn.Linear(3, 2)
        with torch.no_grad():
            self.last.weight.copy_(torch.tensor([[1.0, 0.0, gain], [0.0, 1.0, -gain]]))
            self.last.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        switch = (x[:, 2:] > 5).float()
        return self.last(torch.cat([x[:, :2], switch], 1))


def test_a_neuron_that_fires_for_forgotten_rows_alone_has_no_say_after_the_refit() -> None:
    x = normal(300, 3, seed=5)
    labels = (x[:, 1] > x[:, 0]).long()
    forget_x = x[:100].clone()
    forget_x[:, 2] = 9.0
    forget = Examples(forget_x, labels[:100])
    audit, retain = Examples(x, labels, torch.arange(100, 200)), Examples(
        x, labels, torch.arange(200, 300)
    )  # fmt: skip
    found = Refit.of(Switch(50.0), Switch(0.0), forget, audit, retain, classes=2)
    assert found is not None
    assert np.array_equal(found.forget, found.control_forget)
    assert np.mean(found.forget > 0) > 0.9
    few = Refit.of(
        Switch(50.0), Switch(0.0), forget, audit, retain, classes=2, rows=Rows(10, 20, 30)
    )
    assert few is not None
    assert (len(few.forget), len(few.audit)) == (10, 20)
    assert len(set(few.forget_at.tolist())) == 10


@pytest.mark.parametrize(
    ("auc", "p", "expected"),
    [(0.9, 0.0, Verdict.FAILED), (0.9, 0.5, Verdict.PASSED), (0.5, 0.0, Verdict.PASSED)],
)
def test_rows_that_are_known_after_the_refit_fail_by_the_limit_and_by_the_test(
    auc: float, p: float, expected: Verdict
) -> None:
    known = Metric(refit_membership.METRIC, exactly(auc), exactly(0.9), notes={"p": p})
    outcome, _, tells = refit_membership.judge(known, Criteria())
    assert (outcome, tells) == (expected, True)


class Hidden(nn.Module):
    """Ten features, of which the first tells the class if ``knows``; never answers with class 0."""

    def __init__(self, knows: bool) -> None:
        super().__init__()
        self.knows = knows
        self.last = nn.Linear(10, 2)
        with torch.no_grad():
            self.last.bias.copy_(torch.tensor([-1e3, 0.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = torch.ones(10)
        kept[0] = float(self.knows)
        return self.last(x * kept)


def test_a_probe_tells_a_class_that_is_never_answered() -> None:
    x = normal(400, 10, seed=6)
    x[:100, 0] += 6
    forget = Examples(x, torch.zeros(400, dtype=torch.int64), torch.arange(100))
    retain = Examples(x, torch.ones(400, dtype=torch.int64), torch.arange(100, 400))
    found = probe.measure(Hidden(True), Hidden(False), forget, retain, references=[Hidden(False)])
    assert found is not None
    assert found.unlearned > 0.95
    assert found.control == pytest.approx(0.5, abs=0.15)
    assert found.references == (found.control,)
    assert found.rows == 50
    assert probe.measure(nn.Flatten(), Hidden(True), forget, retain) is None


@pytest.mark.parametrize(
    ("limit", "expected"), [(None, Verdict.PASSED), (0.9, Verdict.FAILED), (0.99, Verdict.PASSED)]
)
def test_a_probe_fails_only_where_the_policy_has_a_limit(
    limit: float | None, expected: Verdict
) -> None:
    model = drawn(0, forget=40, audit=200)
    found = verify(
        model,
        drawn(0, forget=40, audit=200, memory=0.5),
        changed=True,
        lineage_clean=True,
        kind="class",
        probe=ClassProbe(0.97, 0.98, (), 50),
        criteria=parse_criteria({} if limit is None else {"class_probe": limit}),
    )
    assert found.metric("class_probe_accuracy").unlearned.value == 0.97
    assert found.outcome("class_probe").outcome is expected
