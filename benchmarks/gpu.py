"""The check of a graphics card: first whether results are right on it, then what it is worth.

    python -m benchmarks.gpu                          # a CUDA card, some minutes
    python -m benchmarks.gpu --device cpu --tiny      # the same path on a processor, small

Runs the tests in ``tests/gpu`` on the device. Then ResNet-18 of full width on 45,000 images of
CIFAR-10's shape: an epoch, the pass after a training that sums its gradients, the preparation of
the anchor, one split of out-of-fold margins, and updates that forget 1, 45 and 2,250 rows with both
steps, against a retraining. The images are random (classes differ in their mean colour): what is
measured here is time, not quality. Last an encoder of texts and an exact head (``gpu_texts``).
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import gpu_texts, results
from unlearning import methods
from unlearning.anchored import margins, preparation, targets
from unlearning.anchored.anchor import Anchor
from unlearning.anchored.margins import Splits
from unlearning.anchored.targets import BatchMargins, Targets
from unlearning.architectures import Transform, classifier
from unlearning.core import objective, options, task, training
from unlearning.core.examples import Examples
from unlearning.methods import Context

SIZES = (1, 45, 2250)
STEPS = ("calibrated", "matched")
#: Rows, width and the largest batch of forgotten rows: at full size, and tiny.
FULL, TINY = (45_000, 64, 2250), (600, 4, 45)
VALIDATION_ROWS = 0.1
#: An update that takes longer is measured once, otherwise three times after the first.
LONG_SECONDS = 5.0
#: A retraining is this many epochs; one is measured.
RETRAIN_EPOCHS = 15
TRANSFORM = Transform(1 / 255, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
#: Side of the square matrices, and bytes of the block, with which the card's ceilings are measured.
PRODUCT_SIDE, BLOCK_BYTES = 8192, 1 << 30


@dataclass(frozen=True)
class Problem:
    """A network on the device, and the rows that it is trained on."""

    device: torch.device
    train: Examples
    validation: Examples
    width: int
    sizes: tuple[int, ...]
    batch_size: int

    def fresh(self, seed: int) -> nn.Module:
        parameters = {"channels": 3, "classes": 10, "width": self.width}
        generator = torch.Generator().manual_seed(seed)
        return classifier("resnet18", parameters, TRANSFORM, generator=generator).to(self.device)

    def recipe(self, epochs: int) -> training.Recipe:
        return training.Recipe(
            learning_rate=1e-3,
            batch_size=self.batch_size,
            epochs=epochs,
            patience=epochs,
            alpha=0.0,
        )


def main() -> None:
    """Run the check from the command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog="example: python -m benchmarks.gpu --device cpu --tiny",
    )
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--tiny", action="store_true", help="small sizes; writes no result")
    parser.add_argument("--no-tests", action="store_true", help="measure only")
    asked = parser.parse_args()
    if asked.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("no CUDA device answers; try --device cpu --tiny")
    device = torch.device(asked.device)
    if not asked.no_tests:
        _run_tests(asked.device)
    problem = _problem(device, tiny=asked.tiny)
    measured = _measure(problem)
    measured["ceilings"] = _ceilings(device, tiny=asked.tiny)
    measured["share_of_bf16_ceiling"] = (
        measured["epoch_flops_per_second"] / measured["ceilings"]["bf16_flops_per_second"]
    )
    measured["texts"] = gpu_texts.measure(
        device, lambda name, run: _seconds(problem, name, run), tiny=asked.tiny
    )
    _report(measured)
    if not asked.tiny:
        results.write(f"gpu-{_name(device)}", measured, [])


def _run_tests(device: str) -> None:
    """Run ``tests/gpu`` on the device, or end with its exit code."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/gpu"]
    done = subprocess.run(
        command,
        env=os.environ | {"UNLEARN_TEST_DEVICE": device},
        cwd=Path(__file__).parents[1],
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.returncode)


def _problem(device: torch.device, *, tiny: bool) -> Problem:
    rows, width, largest = TINY if tiny else FULL
    held_out = int(rows * VALIDATION_ROWS)
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(10, (rows + held_out,), generator=generator)
    x = torch.randint(0, 200, (len(y), 3, 32, 32), generator=generator, dtype=torch.uint8)
    x += (5 * y).to(torch.uint8)[:, None, None, None]
    return Problem(
        device=device,
        train=Examples(x, y, torch.arange(rows)),
        validation=Examples(x, y, torch.arange(rows, len(y))),
        width=width,
        sizes=tuple(size for size in SIZES if size <= largest),
        batch_size=64 if tiny else 256,
    )


def _measure(problem: Problem) -> dict[str, Any]:
    """Seconds of every step, the largest memory that each took, and the operations of an epoch."""
    # The first epoch compiles kernels and fills caches.
    _seconds(problem, "first epoch", lambda: _fit(problem, problem.train, epochs=1))
    epoch, model = _seconds(problem, "epoch", lambda: _fit(problem, problem.train, epochs=1))
    publish, _ = _seconds(
        problem,
        "publish pass",
        lambda: objective.summed_gradient_and_losses(model, problem.train),
    )
    prepare, anchor = _seconds(
        problem,
        "preparation",
        lambda: preparation.prepare(
            model,
            problem.train,
            problem.validation,
            generator=torch.Generator().manual_seed(0),
        ),
    )
    split, found = _seconds(problem, "split of margins", lambda: _targets(problem, model))
    flops = _flops_of_a_row(problem) * len(problem.train)
    return {
        "rows": len(problem.train),
        "width": problem.width,
        "epoch": epoch,
        "publish_pass": publish,
        "prepare": prepare,
        "prepare_over_training": prepare["seconds"] / (RETRAIN_EPOCHS * epoch["seconds"]),
        "split_of_margins": split,
        "split_over_epoch": split["seconds"] / epoch["seconds"],
        "updates": {
            step: {
                str(size): _update(problem, model, anchor, found, step, size, epoch)
                for size in problem.sizes
            }
            for step in STEPS
        },
        "epoch_flops_per_second": flops / epoch["seconds"],
    }


def _fit(problem: Problem, rows: Examples, *, epochs: int) -> nn.Module:
    return training.fit(
        problem.fresh(0),
        rows,
        problem.validation,
        recipe=problem.recipe(epochs),
        generator=torch.Generator().manual_seed(0),
    ).model


def _targets(problem: Problem, model: nn.Module) -> Targets:
    """Fit targets to the margins of one split of two folds, each trained for one epoch."""
    out = margins.prepare(
        problem.fresh,
        problem.train,
        problem.validation,
        trainer=margins.by_recipe(problem.recipe(1), problem.validation),
        options=Splits(1, 2),
        seed=1,
    )
    return targets.fit(
        out,
        own=margins.of_examples(model, problem.train),
        held_out=margins.of_examples(model, problem.validation),
    )


def _update(
    problem: Problem,
    model: nn.Module,
    anchor: Anchor,
    found: Targets,
    step: str,
    size: int,
    epoch: dict[str, float],
) -> dict[str, float]:
    """Median seconds of forgetting ``size`` rows, and how many fit into a retraining."""
    order = torch.randperm(len(problem.train), generator=torch.Generator().manual_seed(size))
    forget = problem.train.subset(order[:size])
    retain = problem.train.subset(order[size:].sort().values)
    method = methods.get("iau")
    context = Context(
        calibration=problem.validation,
        anchor=anchor,
        margins=BatchMargins(found.of(order[:size])) if step == "matched" else None,
    )

    def unlearn() -> methods.Update:
        update = method.unlearn(
            model,
            forget,
            retain,
            options=options.parse(method.options, {"step": step}),
            context=context,
            generator=torch.Generator().manual_seed(0),
        )
        _wait(problem.device)
        return update

    # The first run of a size compiles kernels; its memory is what counts.
    taken, _ = _seconds(problem, f"{step}, {size} rows", unlearn)
    seconds = taken["seconds"]
    if seconds < LONG_SECONDS:
        seconds, _ = results.median_seconds(unlearn, repeats=3)
    return taken | {
        "first_seconds": taken["seconds"],
        "seconds": seconds,
        "retrain_over_update": RETRAIN_EPOCHS * epoch["seconds"] / seconds,
    }


def _seconds(problem: Problem, name: str, run: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    """Wall seconds of one run, with the peak of the device's memory in MiB; say so at once."""
    cuda = problem.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(problem.device)
    _wait(problem.device)
    began = time.perf_counter()
    found = run()
    _wait(problem.device)
    taken = {"seconds": time.perf_counter() - began}
    if cuda:
        taken["peak_mib"] = torch.cuda.max_memory_allocated(problem.device) / (1 << 20)
    results.console.print(f"{name}: {taken['seconds']:.2f} s")
    return taken, found


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _flops_of_a_row(problem: Problem) -> float:
    """Floating-point operations of one row's forward and backward pass, as torch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    ((x, y),) = problem.train.subset(torch.arange(2)).batches(2, device=problem.device)
    model = problem.fresh(0).train()
    with FlopCounterMode(display=False) as counter:
        loss = task.loss(model(x), y).mean()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves backward unannotated
    return float(counter.get_total_flops()) / 2


def _ceilings(device: torch.device, *, tiny: bool) -> dict[str, float]:
    """What the device reaches at best: products of bf16 matrices, and bytes copied."""
    side = 256 if tiny else PRODUCT_SIDE
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)

    def product() -> None:
        a @ a
        _wait(device)

    block = torch.empty((1 << 20) if tiny else BLOCK_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(block)

    def copy() -> None:
        target.copy_(block)
        _wait(device)

    multiplying, _ = results.median_seconds(product, repeats=5)
    copying, _ = results.median_seconds(copy, repeats=5)
    return {
        "bf16_flops_per_second": 2 * side**3 / multiplying,
        "bytes_per_second": 2 * block.numel() / copying,
    }


def _report(measured: dict[str, Any]) -> None:
    steps = [
        (name, measured[name]) for name in ("epoch", "publish_pass", "prepare", "split_of_margins")
    ]
    results.show(
        f"ResNet-18 of width {measured['width']} on {measured['rows']} rows",
        ("step", "seconds", "peak MiB"),
        [(name, found["seconds"], found.get("peak_mib", "")) for name, found in steps],
    )
    results.show(
        "Updates",
        ("step", "forgotten rows", "seconds", "peak MiB", "retrain / update"),
        [
            (step, rows, u["seconds"], u.get("peak_mib", ""), u["retrain_over_update"])
            for step, updates in measured["updates"].items()
            for rows, u in updates.items()
        ],
    )
    _report_texts(measured["texts"])
    share = measured["share_of_bf16_ceiling"]
    results.console.print(f"An epoch reaches {share:.1%} of the device's bf16 products.")


def _report_texts(found: dict[str, Any]) -> None:
    lines = []
    for name, steps in found.items():
        if isinstance(steps, dict):
            for step, taken in steps.items():
                if isinstance(taken, dict):
                    lines.append((name, step, taken["seconds"], taken.get("peak_mib", "")))
    results.show(
        f"An encoder of texts on {found['rows']} rows",
        ("part", "step", "seconds", "peak MiB"),
        lines,
    )
    for name in gpu_texts.PARTS:
        ratio = found[name]["retrain_over_update"]
        results.console.print(f"{name}: a retraining takes {ratio:.3g} matched steps.")


def _name(device: torch.device) -> str:
    """The card's name as a part of a file name."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


if __name__ == "__main__":
    main()
