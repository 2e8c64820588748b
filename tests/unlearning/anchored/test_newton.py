"""The unweighted influence step under more damping, against its formula."""

from dataclasses import replace

import pytest
import torch

from tests.unlearning.anchored import small
from unlearning.anchored import anchor as anchors
from unlearning.core import objective
from unlearning.curvature import estimation


def _sums(network, examples):
    """Gradients summed over all rows, and over the first three, (p,) float64."""
    few = examples.subset(torch.arange(3))
    return [objective.summed_gradient(network, one).double() for one in (examples, few)]


@pytest.mark.parametrize("curved", [True, False])
def test_newtons_step_is_the_formula_and_is_walked_along(curved):
    torch.manual_seed(0)
    network, examples = small.network().eval(), small.examples(20, (5,))
    curvature = estimation.estimate(
        network, examples, fisher="empirical", relative_damping=0.1, generator=small.generator()
    )
    g, g_f = _sums(network, examples)
    none = torch.zeros_like(g)
    anchor = anchors.Anchor(
        theta=objective.flatten(network),
        gradient_sum=g,
        preconditioned_sum=none,
        class_counts=torch.bincount(examples.labels, minlength=4),
        count=20,
        training_loss=1.0,
        validation_loss=2.0,
        curvature=curvature if curved else None,
        law=None,
    )
    forgotten = anchors.Forgotten(
        gradient_sum=g_f,
        preconditioned_sum=none,
        push_sum=none,
        preconditioned_push_sum=none,
        weight_sum=3.0,
        class_counts=torch.bincount(examples.labels[:3], minlength=4),
        count=3,
        loss_sum=3.0,
    )
    found = anchors.newton(anchor, forgotten)

    mean, retain = g_f / 3, (g - g_f) / 17
    push = mean - max(0.0, float(mean @ retain / (retain @ retain))) * retain
    if curved:
        damping = anchors._NEWTON_DAMPING * curvature.damping
        push = replace(curvature, damping=damping).solve(push)
    assert float(mean @ push) > 0
    assert found.length == pytest.approx(float(push.norm()))
    assert float((found.delta - push / push.norm()).norm()) < 1e-6

    walk = anchors.along(anchor, found, network)
    for strength in (0.5, 0.0, 2.0):
        walked = objective.flatten(walk(strength))
        torch.testing.assert_close(walked, anchor.theta + strength * found.delta)
