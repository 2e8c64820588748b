"""Whether the weights of a logistic head are taken for those of its rows."""

import pytest
import torch

from unlearning import architectures
from unlearning.architectures import LogisticClassifier
from unlearning.core import training
from unlearning.core.examples import Examples
from unlearning.heads import certificate, multinomial
from workers.compute import certify


@pytest.mark.parametrize(("penalty", "bounded"), [(1.0, True), (1e-8, False)])
def test_weights_of_a_fit_are_those_of_its_rows_however_small_the_penalty(
    penalty: float, bounded: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 5, generator=generator)
    rows = Examples(x, torch.randint(4, (60,), generator=generator))
    head = architectures.classifier(
        "logistic", {"inputs": 5, "classes": 4, "penalty": penalty}, None
    )
    fit = training.fit(head, rows, rows, recipe=training.Recipe(), generator=torch.Generator())
    assert isinstance(fit.model, LogisticClassifier)
    assert fit.statistics is not None
    slope = fit.model.slope(fit.statistics, rows)
    distance = multinomial.distance_bound(slope.norm, slope.rounding, penalty)
    assert (distance <= certificate.MOST_DISTANCE) == bounded
    assert certify._of_weights(fit.model, fit.statistics, rows) is None
    with torch.no_grad():
        fit.model.network.weight[0, 0] += 1e-3
    assert "not within the bound" in str(certify._of_weights(fit.model, fit.statistics, rows))
