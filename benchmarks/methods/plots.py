"""Loss histograms, receiver operating characteristics, and accuracy against AUC."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray

from benchmarks.methods import measuring
from benchmarks.methods.measuring import Baseline, Numbers
from benchmarks.methods.table import Measured, is_default
from unlearning.verification import ModelScores

mpl.use("Agg")

# Told apart by everybody (Okabe and Ito).
BLUE, ORANGE, GREEN, RED, PURPLE, SKY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
)
GREY = "#7F7F7F"
_DPI = 140
_SMALLEST = 1e-4
#: Points of accuracy under the base's that are still drawn.
_DEEPEST = 12


def losses(models: Mapping[str, ModelScores], control: ModelScores, path: Path) -> None:
    """One panel per model: losses of the forget rows against never-seen rows, log scale."""
    columns = 3
    rows = -(-len(models) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(4 * columns, 3 * rows),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    bins = _loss_bins(models.values())
    for axis in axes.flat[len(models) :]:
        axis.set_axis_off()
    for axis, (title, scores) in zip(axes.flat, models.items(), strict=False):
        matched = measuring.comparison(scores, control)
        forget, unseen = matched.batches[0].unlearned.forget, matched.batches[0].unlearned.audit
        _outline(axis, unseen.loss, matched.weights, bins, fill=True)
        _outline(axis, forget.loss, np.full(len(forget), 1 / len(forget)), bins, fill=False)
        axis.set_title(title, fontsize=10)
        axis.set(xscale="log")
    for axis in axes[:, 0]:
        axis.set_ylabel("share of rows")
    for axis in axes[-1]:
        axis.set_xlabel("loss")
    axes[0, 0].legend(frameon=False, loc="upper left", fontsize=9)
    _save(figure, path)


def roc(models: Mapping[str, ModelScores], control: ModelScores, path: Path) -> None:
    """Both rates on log scales: what an attacker gains where few never-seen rows are suspected."""
    figure, axis = plt.subplots(figsize=(6.4, 5.6))
    smallest = 1e-3
    colours = [GREY, GREEN, BLUE, ORANGE, PURPLE, SKY]
    axis.plot([smallest, 1], [smallest, 1], color="black", linewidth=0.8, linestyle=":")
    for (title, scores), colour in zip(models.items(), colours, strict=False):
        false, true = rates(scores, control)
        axis.plot(
            false,
            true,
            color=colour,
            linewidth=2.2 if colour == BLUE else 1.4,
            linestyle="--" if colour in (GREY, GREEN) else "-",
            label=title,
            drawstyle="steps-post",
        )
    axis.axvline(measuring.FALSE_POSITIVES, color="black", linewidth=0.6, alpha=0.4)
    axis.set(
        xscale="log",
        yscale="log",
        xlim=(smallest, 1),
        ylim=(smallest, 1),
        xlabel="false positive rate (never-seen rows taken for members)",
        ylabel="true positive rate (forget rows found)",
    )
    axis.legend(frameon=False, fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
    _save(figure, path)


def trade_off(lines: Sequence[Measured], against: Baseline, base: Numbers, path: Path) -> None:
    """Test accuracy against membership AUC; the references are where a method should be."""
    figure, axis = plt.subplots(figsize=(7.4, 6))
    every = [base, *against.each, *(line.numbers for line in lines)]
    # A method that broke the model would press all others together.
    floor = max(100 * base.test - _DEEPEST, min(100 * n.test for n in every) - 1)
    inside = [(n, line) for n, line in enumerate(lines, 1) if 100 * line.numbers.test >= floor]
    for _, line in inside:
        _point(axis, line)
    for strength, title in (("calibrated", "calibrated strength"), ("authors", "authors' setting")):
        axis.scatter([], [], label=title, **_STYLES[strength])
    stars = [(n.auc, 100 * n.test) for n in against.each]
    nothing = (base.auc, 100 * base.test)
    x, y = zip(*stars, strict=True)
    axis.scatter(x, y, marker="*", s=120, color=GREEN, label="retrained")
    axis.scatter(nothing[0], nothing[1], marker="X", s=90, color=GREY, label="do nothing")
    axis.axvline(against.mean.auc, color=GREEN, linewidth=0.8, linestyle="--", zorder=1)
    axis.set_ylim(floor, max(100 * n.test for n in every) + 1)
    axis.margins(x=0.08)
    axis.set(
        xlabel="membership AUC of the forget rows (dashed: as retrained)",
        ylabel="accuracy on never-seen rows, %",
    )
    axis.legend(frameon=False, fontsize=8, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1))
    numbered = [(line.numbers.auc, 100 * line.numbers.test, str(n)) for n, line in inside]
    _number(axis, numbered, [*stars, nothing])
    _list(axis, lines, outside=set(range(1, len(lines) + 1)) - {n for n, _ in inside})
    _save(figure, path)


def rates(
    scores: ModelScores, control: ModelScores
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False and true positive rate at every threshold on −loss."""
    matched = measuring.comparison(scores, control)
    forget, unseen = matched.batches[0].unlearned.forget, matched.batches[0].unlearned.audit
    loss = np.concatenate([forget.loss, unseen.loss])
    true = np.concatenate([np.full(len(forget), 1 / len(forget)), np.zeros(len(unseen))])
    false = np.concatenate([np.zeros(len(forget)), matched.weights])
    order = np.argsort(loss, kind="stable")
    # Rows of equal loss pass the threshold together.
    last = np.append(np.diff(loss[order]) > 0, True)
    return np.cumsum(false[order])[last], np.cumsum(true[order])[last]


def _loss_bins(models: Iterable[ModelScores]) -> NDArray[np.float64]:
    """Edges of equal width on a log scale, from the small losses to the largest."""
    every = np.concatenate([np.concatenate([m.forget.loss, m.audit.loss]) for m in models])
    low, high = np.quantile(every, (0.005, 0.999))
    return np.geomspace(max(low, _SMALLEST), max(high, 10 * _SMALLEST), 46)


def _outline(
    axis: Any,
    loss: NDArray[np.float64],
    weights: NDArray[np.float64],
    bins: NDArray[np.float64],
    *,
    fill: bool,
) -> None:
    """Losses outside the bins count in the outermost ones."""
    drawn = {"color": GREY, "alpha": 0.5, "label": "never seen"}
    if not fill:
        drawn = {"histtype": "step", "color": RED, "linewidth": 1.6, "label": "to forget"}
    axis.hist(loss.clip(bins[0], bins[-1]), bins, weights=weights, **drawn)


_STYLES: dict[str, dict[str, Any]] = {
    "calibrated": {"marker": "o", "facecolor": SKY, "edgecolor": BLUE},
    "authors": {"marker": "s", "facecolor": "white", "edgecolor": ORANGE},
}


def _point(axis: Any, line: Measured) -> None:
    style = {**_STYLES[line.entry.strength], "s": 34}
    if is_default(line):
        style |= {"facecolor": BLUE, "s": 90}
    axis.scatter(line.numbers.auc, 100 * line.numbers.test, linewidth=1.2, zorder=3, **style)


def _list(axis: Any, lines: Sequence[Measured], *, outside: set[int]) -> None:
    """The names behind the numbers, beside the frame."""
    named = ["in order of average rank", ""]
    for n, line in enumerate(lines, start=1):
        named.append(f"{n:2}  {line.title}{' (below the frame)' if n in outside else ''}")
    axis.text(1.03, 1, "\n".join(named), transform=axis.transAxes, fontsize=7.5, va="top")


def _number(
    axis: Any, points: Sequence[tuple[float, float, str]], others: Sequence[tuple[float, float]]
) -> None:
    """Short labels beside their points, covering neither each other nor a point."""
    axis.figure.canvas.draw()
    per_pixel = 72 / axis.figure.dpi
    drawn = [(x, y) for x, y, _ in points] + list(others)
    taken = [tuple(at * per_pixel) for at in axis.transData.transform(drawn)]
    for x, y, text in points:
        at = axis.transData.transform((x, y)) * per_pixel
        for radius, angle in _AROUND:
            dx, dy = radius * np.cos(angle), radius * np.sin(angle)
            place = (at[0] + dx, at[1] + dy)
            if all(
                abs(place[0] - tx) > _APART[0] or abs(place[1] - ty) > _APART[1] for tx, ty in taken
            ):
                break
        taken.append(place)
        axis.annotate(
            text,
            (x, y),
            xytext=(dx, dy),
            textcoords="offset points",
            fontsize=7.5,
            ha="center",
            va="center",
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": GREY, "shrinkB": 0},
        )


#: Where a label may stand, in points from its point, nearest first; how far apart two must be.
_AROUND = [
    (radius, angle)
    for radius in (14, 20, 28, 36, 44, 52, 60)
    for angle in np.linspace(0, 2 * np.pi, 16, endpoint=False)
]
_APART = (12.0, 9.0)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=_DPI, bbox_inches="tight")
    plt.close(figure)
