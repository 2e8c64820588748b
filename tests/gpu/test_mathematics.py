"""Training, preparation, curvature, every method and verification on a device.

Each result is compared with the processor's. A device adds in another order and multiplies
convolutions in TF32, with ten bits of mantissa: single products are off by 1e-3 of their size, and
what is iterated from them by more. The tolerances say how much.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.gpu.conftest import Copies
from tests.unlearning.methods.conftest import Task, digits, generator
from unlearning import architectures, methods, verification
from unlearning.anchored import anchor as anchors
from unlearning.anchored import preparation
from unlearning.architectures import Transform
from unlearning.core import objective, options, training
from unlearning.curvature import estimation
from unlearning.methods import Context, Update
from unlearning.verification import ModelScores

pytestmark = pytest.mark.gpu

#: Relative difference of a sum over rows, without and with TF32, or of a solve with the curvature.
SUMS_FLOAT32 = 1e-4
SUMS = 1e-2
SOLVES = 2e-2
#: Difference of a mean loss, and of accuracies after many steps.
LOSSES = 5e-3
ACCURACIES = 0.06

#: Methods for any network; the others need one that is fitted in closed form.
GENERAL = [name for name in methods.names() if "statistics" not in methods.get(name).needs]
KINDS = [(name, kind) for name in GENERAL for kind in sorted(methods.get(name).forgets)]
RECIPE = training.Recipe(epochs=2, patience=2, batch_size=32, learning_rate=1e-2, alpha=5e-3)


def _apart(there: Tensor, here: Tensor) -> float:
    """Relative distance in float64, wherever the tensors lie."""
    a, b = there.detach().cpu().double(), here.detach().cpu().double()
    return float((a - b).norm() / b.norm().clamp_min(1e-30))


def _same(first: nn.Module, second: nn.Module) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return all(torch.equal(one[name], other[name]) for name in one)


def _fit(task: Task, device: torch.device) -> training.Fit:
    model = copy.deepcopy(task.untrained).to(device)
    return training.fit(model, task.train, task.test, recipe=RECIPE, generator=generator(3))


def _unlearn(task: Task, name: str, kind: str) -> Update:
    method = methods.get(name)
    forget, retain, context = task.given(kind)
    if name != "amnesiac":
        context = dataclasses.replace(context, update_log=None)
    light: dict[str, Any] = {"retrain": {"epochs": 2}, "influence": {"iterations": 8}}.get(name, {})
    return method.unlearn(
        task.model,
        forget,
        retain,
        options=options.parse(method.options, light),
        context=context,
        generator=generator(5),
    )


def _accuracy(model: nn.Module, task: Task) -> float:
    return float(objective.correct(model, task.test).double().mean())


def test_first_epoch_is_the_processors(copies: Copies, device: torch.device) -> None:
    there, here = _fit(copies.device, device), _fit(copies.processor, torch.device("cpu"))
    assert next(there.model.parameters()).device.type == device.type
    assert there.history[0].training_loss == pytest.approx(here.history[0].training_loss, rel=0.02)


def test_one_seed_trains_the_same_weights_twice(copies: Copies, device: torch.device) -> None:
    assert _same(_fit(copies.device, device).model, _fit(copies.device, device).model)


def test_mixed_precision_keeps_float32_weights_and_trains_as_well(
    copies: Copies, device: torch.device
) -> None:
    found = {}
    for precision in ("full", "bfloat16"):
        recipe = dataclasses.replace(RECIPE, alpha=0.0, precision=precision)
        model = copy.deepcopy(copies.device.untrained)
        found[precision] = training.fit(
            model, copies.device.train, copies.device.test, recipe=recipe, generator=generator(3)
        )
        state = model.state_dict().values()
        assert all(t.dtype in (torch.float32, torch.int64) for t in state)
    full, mixed = found["full"], found["bfloat16"]
    assert mixed.history[0].training_loss == pytest.approx(full.history[0].training_loss, rel=0.05)
    # A processor has no mixed precision: there the two are the same.
    has = device.type == "cuda" and torch.cuda.is_bf16_supported()
    assert _same(full.model, mixed.model) == (not has)


def test_sums_and_losses_are_the_processors(copies: Copies) -> None:
    there, losses_there = objective.summed_gradient_and_losses(
        copies.device.model, copies.device.train
    )
    here, losses_here = objective.summed_gradient_and_losses(
        copies.processor.model, copies.processor.train
    )
    assert _apart(there, here) < SUMS
    assert float(losses_there.double().mean()) == pytest.approx(
        float(losses_here.double().mean()), abs=LOSSES
    )


def test_sums_differ_by_the_rounding_of_tf32_alone(copies: Copies) -> None:
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        there = objective.summed_gradient(copies.device.model, copies.device.train)
    here = objective.summed_gradient(copies.processor.model, copies.processor.train)
    assert _apart(there, here) < SUMS_FLOAT32


def test_curvature_solves_as_the_processors(copies: Copies) -> None:
    forget, _ = copies.processor.records(30)
    vector = objective.summed_gradient(copies.processor.model, forget)
    solved = [
        estimation.estimate(
            task.model, task.train, relative_damping=0.1, generator=generator()
        ).solve(vector.to(next(task.model.parameters()).device))
        for task in (copies.device, copies.processor)
    ]
    assert _apart(*solved) < SOLVES


def test_anchor_is_the_processors_and_comes_back_from_its_file(
    copies: Copies, device: torch.device
) -> None:
    there, here = (
        preparation.prepare(task.model, task.train, task.test, generator=generator())
        for task in (copies.device, copies.processor)
    )
    assert _apart(there.gradient_sum, here.gradient_sum) < SUMS
    assert there.gap == pytest.approx(here.gap, abs=LOSSES)
    assert torch.equal(there.class_counts.cpu(), here.class_counts)
    read = anchors.from_tensors(
        {name: t.cpu() for name, t in there.to_tensors().items()}, device=device
    )
    assert torch.equal(read.preconditioned_sum, there.preconditioned_sum)
    assert read.theta.device.type == device.type


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_method_works_on_the_device_as_on_the_processor(
    copies: Copies, device: torch.device, name: str, kind: str
) -> None:
    before = {n: t.clone() for n, t in copies.device.model.state_dict().items()}
    there, here = _unlearn(copies.device, name, kind), _unlearn(copies.processor, name, kind)
    state = there.model.state_dict()
    assert {t.device.type for t in state.values()} == {device.type}
    assert all(bool(t.isfinite().all()) for t in state.values())
    unchanged = copies.device.model.state_dict()
    assert all(torch.equal(unchanged[n], t) for n, t in before.items())
    assert _accuracy(there.model, copies.device) == pytest.approx(
        _accuracy(here.model, copies.processor), abs=ACCURACIES
    )


@pytest.mark.parametrize("name", GENERAL)
def test_one_seed_unlearns_to_the_same_weights_twice(copies: Copies, name: str) -> None:
    kind = max(methods.get(name).forgets)
    first, second = (_unlearn(copies.device, name, kind) for _ in range(2))
    assert _same(first.model, second.model)


def test_head_has_the_bits_of_the_processor(device: torch.device) -> None:
    rows = digits()
    found = {}
    for where in (torch.device("cpu"), device):
        head = architectures.classifier("ridge", {}, Transform(scale=1 / 16)).to(where)
        fit = training.fit(
            head,
            rows.subset(torch.arange(1000)),
            rows.subset(torch.arange(1000, 1400)),
            recipe=RECIPE,
            generator=generator(3),
        )
        method = methods.get("downdate")
        update = method.unlearn(
            fit.model,
            rows.subset(torch.arange(30)),
            rows.subset(torch.arange(30, 1000)),
            options=method.options(),
            context=Context(statistics=fit.statistics),
            generator=generator(5),
        )
        found[where.type] = update
    one, other = found["cpu"], found[device.type]
    assert one.certificate == other.certificate
    assert all(
        torch.equal(t, other.model.state_dict()[name].cpu())
        for name, t in one.model.state_dict().items()
    )


def test_verification_measures_and_judges_as_on_the_processor(copies: Copies) -> None:
    found = {}
    for where, task in (("device", copies.device), ("processor", copies.processor)):
        forget, _ = task.records(60)
        scores = ModelScores(
            forget=verification.score(task.model, forget),
            audit=verification.score(task.model, task.test),
        )
        found[where] = scores, verification.verify(scores, scores, changed=True, lineage_clean=True)
    (there, judged_there), (here, judged_here) = found["device"], found["processor"]
    np.testing.assert_allclose(there.forget.loss, here.forget.loss, atol=0.05, rtol=0.05)
    assert np.mean(there.audit.correct == here.audit.correct) > 0.98
    assert judged_there.verdict == judged_here.verdict
