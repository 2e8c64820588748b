"""Encoders, their mixed precision, the matched step on them, and exact heads on the device."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests import mislabelled
from unlearning import architectures, methods
from unlearning.anchored import margins, matched
from unlearning.architectures import HeadClassifier, Transform
from unlearning.core import objective, training
from unlearning.core.examples import Examples
from unlearning.curvature import estimation
from unlearning.methods import Context

pytestmark = pytest.mark.gpu

PARTS = ("last_layers", "lora", "all")
#: Difference of logits, and of the weights' change by a step, relative to its norm.
LOGITS, STEPS = 2e-2, 5e-2


def pair(folder: Path, name: str, device: torch.device) -> tuple[Any, nn.Module, nn.Module]:
    """A problem, and one network of it on the processor and on the device; encoders are two."""
    here = mislabelled.problem(folder / "here", name)
    there = mislabelled.problem(folder / "there", name)
    model, other = here.fresh(1), there.fresh(2)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in objective.step_parameters(model).values():  # low-rank changes are zero at first
            p += 0.01 * torch.randn(p.shape, generator=generator)
    other.load_state_dict(model.state_dict())
    return here, model.eval(), other.to(device).eval()


@pytest.mark.parametrize("name", PARTS)
def test_logits_are_the_processors(tmp_path: Path, name: str, device: torch.device) -> None:
    task, here, there = pair(tmp_path, name, device)
    x = task.train.x[:40]
    found = there(x.to(device))
    assert found.device.type == device.type
    torch.testing.assert_close(found.cpu(), here(x), rtol=LOGITS, atol=LOGITS)


@pytest.mark.parametrize("name", PARTS)
def test_mixed_precision_keeps_float32_weights_and_trains_as_well(
    tmp_path: Path, name: str, device: torch.device
) -> None:
    losses = {}
    for precision in ("full", "bfloat16"):
        task = mislabelled.problem(tmp_path / precision, name)
        recipe = dataclasses.replace(task.recipe, epochs=2, precision=precision)
        fit = training.fit(
            task.fresh(1).to(device),
            task.train,
            task.validation,
            recipe=recipe,
            generator=torch.Generator().manual_seed(2),
        )
        assert all(t.dtype == torch.float32 for t in fit.model.state_dict().values())
        losses[precision] = fit.history[-1].training_loss
    assert losses["bfloat16"] == pytest.approx(losses["full"], rel=0.1)


@pytest.mark.parametrize("name", PARTS)
def test_matched_step_is_the_processors(tmp_path: Path, name: str, device: torch.device) -> None:
    task, here, there = pair(tmp_path, name, device)
    changes = []
    for model in (here, there):
        wanted = margins.of_examples(here, task.forget) - 1
        held = task.retain.subset(torch.arange(20))
        _, way, report = matched.move(
            model,
            matched.Rows(task.forget, wanted),
            matched.Rows(held, margins.of_examples(here, held)),
            curvature=estimation.estimate(
                model, task.train, generator=torch.Generator().manual_seed(4), relative_damping=0.1
            ),
            settings=matched.Settings(steps=2, solver="kernel"),
        )
        assert report.after < 0.5 * report.before
        changes.append((way[-1] - way[0]).cpu().double())
    ours, theirs = changes[1], changes[0]
    # The curvature samples labels from the network's own probabilities, which differ by rounding.
    assert float((ours - theirs).norm() / theirs.norm()) < STEPS


def test_sums_of_an_exact_head_are_the_processors_bit_for_bit(device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 24, generator=generator)
    rows = Examples(x / x.norm(dim=1, keepdim=True), torch.arange(400) % 5)
    found = []
    for place in (torch.device("cpu"), device):
        head = architectures.classifier("ridge", {"inputs": 24, "classes": 5}, Transform())
        assert isinstance(head, HeadClassifier)
        head = head.to(place)
        fitted = head.fit_to_minimum(rows, rows.subset(torch.arange(100)))
        method = methods.get("downdate")
        update = method.unlearn(
            head,
            rows.subset(torch.arange(30)),
            rows.subset(torch.arange(30, 400)),
            options=method.options(),
            context=Context(statistics=fitted),
            generator=torch.Generator(),
        )
        assert update.statistics is not None
        found.append((fitted.digest(), update.statistics.digest(), update.model))
    (before, after, here), (before_there, after_there, there) = found
    assert (before_there, after_there) == (before, after)
    torch.testing.assert_close(
        there(rows.x[:50].to(device)).cpu(), here(rows.x[:50]), rtol=1e-6, atol=1e-8
    )
