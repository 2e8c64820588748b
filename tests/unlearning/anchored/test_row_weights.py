"""Rows that a network knows by heart, and how a step weighs them."""

import copy
import statistics
from dataclasses import replace

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from tests.unlearning.anchored.small import generator
from unlearning import architectures
from unlearning.anchored import anchor as anchors
from unlearning.anchored import calibration, preparation
from unlearning.anchored.preparation import Preparation
from unlearning.architectures import Transform
from unlearning.core import objective, training
from unlearning.core.examples import Examples


def _by_heart(seed):
    """Digits, three in ten with a wrong label, and a network that knows 600 of them by heart."""
    data = load_digits()
    x, y = torch.tensor(data.images, dtype=torch.float32)[:, None], torch.tensor(data.target)
    order = torch.randperm(len(y), generator=generator(seed))
    x, y = x[order], y[order]
    wrong = torch.rand(len(y), generator=generator(seed + 1)) < 0.3
    y = torch.where(wrong, torch.randint(10, y.shape, generator=generator(seed + 2)), y)
    network = architectures.classifier(
        "lenet5",
        {"channels": 1, "image_height": 8, "image_width": 8},
        Transform(scale=1 / 16, mean=(0.3,), std=(0.4,)),
        generator=generator(),
    )
    rows = Examples(x, y).subset(torch.arange(600))
    recipe = training.Recipe(learning_rate=2e-3, batch_size=32, epochs=60, patience=60, alpha=0.0)
    # Judged by its training rows, so that the last and most fitted epoch is the best.
    training.fit(network, rows, rows, recipe=recipe, generator=generator())
    return Examples(x, y), network


@pytest.mark.slow
def test_rows_known_by_heart_can_no_more_be_told_from_rows_never_seen():
    """On rows that took no part in settling the weights: other sets, other held-out rows."""
    weighted, alike, powers = [], [], []
    for seed in (0, 20, 50):
        digits, model = _by_heart(seed)
        unseen = digits.subset(torch.arange(1100, len(digits)))
        anchor = preparation.prepare(
            model,
            digits.subset(torch.arange(600)),
            digits.subset(torch.arange(600, 1100)),
            options=Preparation(law_repeats=0),
            generator=generator(),
        )
        powers.append(anchor.evenness)
        for first in range(0, 600, 60):
            forget = digits.subset(torch.arange(first, first + 60))
            weighted.append(_told(_stepped(anchor, model, forget), forget, unseen))
            alike.append(
                _told(_stepped(replace(anchor, evenness=0.0), model, forget), forget, unseen)
            )
    # Another rounding trains another network, on which an attack may find nothing to weigh.
    assert all(0 <= power <= 1 for power in powers)
    assert max(powers) > 0
    assert abs(statistics.fmean(weighted) - 0.5) < 0.75 * abs(statistics.fmean(alike) - 0.5)


def _stepped(anchor, model, forget):
    """The model after the searched step."""
    step = anchors.direction(anchor, anchors.forget(anchor, None, model, forget))
    goal = calibration.loss_goal(model, forget, gap=anchor.gap, generator=generator())
    apply = anchors.along(anchor, step, copy.deepcopy(model))
    start = 0.5 * anchor.gap / step.slope
    found = calibration.search(apply, goal=goal, start=start, ceiling=anchors.ceiling(anchor))
    return apply(found.value)


def _told(network, forget, unseen):
    """AUC of the loss as a test of membership."""
    losses = [objective.losses(network, rows) for rows in (forget, unseen)]
    return roc_auc_score([1] * len(forget) + [0] * len(unseen), -torch.cat(losses))
