"""Each row's margin, before and after, against the margin under models that never saw it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt

from benchmarks.memorised.rows import Margins, Rows

mpl.use("Agg")

RED, GREY = "#D55E00", "#7F7F7F"
_PANELS = {
    "before": "do nothing",
    "calibrated": "calibrated step",
    "matched": "matched step",
    "retrained": "one retrained model",
}
_DPI = 90


def draw(rows: Rows, path: Path) -> None:
    """Draw a panel for each model; on the diagonal a row is as if it had never been seen."""
    figure, axes = plt.subplots(
        1, len(_PANELS), figsize=(11, 3.2), sharex=True, sharey=True, layout="constrained"
    )
    across, low, high = _ends(rows)
    for axis, (name, title) in zip(axes, _PANELS.items(), strict=True):
        axis.plot([low, high], [low, high], color="black", linewidth=0.8, linestyle=":")
        axis.axhline(0, color="black", linewidth=0.4, alpha=0.4)
        _points(axis, rows.retained, name, color=GREY, label="retained", s=7, alpha=0.45)
        _points(axis, rows.forgotten, name, color=RED, label="forgotten", s=13, alpha=0.85)
        axis.set(title=f"{title}\nrms from the diagonal: {distance(rows.forgotten, name):.1f}")
        axis.title.set_fontsize(9)
        axis.set_xlabel("out-of-fold margin", fontsize=9)
        axis.set_xlim(*across)
    axes[0].set_ylabel("margin", fontsize=9)
    axes[0].legend(frameon=False, fontsize=8, loc="lower right")
    figure.suptitle(rows.title, fontsize=10)
    figure.savefig(path, dpi=_DPI, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)


def distance(margins: Margins, name: str) -> float:
    """Return the root mean square of a model's margins less the out-of-fold ones."""
    apart = np.subtract(getattr(margins, name), margins.out_of_fold)
    return float(np.sqrt(np.mean(np.square(apart))))


def _points(axis: Any, margins: Margins, name: str, **style: Any) -> None:
    axis.scatter(margins.out_of_fold, getattr(margins, name), linewidths=0, **style)


def _ends(rows: Rows) -> tuple[tuple[float, float], float, float]:
    """Return the range of out-of-fold margins, with a little room, and that of all margins."""
    sets = (rows.forgotten, rows.retained)
    across = np.asarray([v for m in sets for v in m.out_of_fold])
    every = np.asarray([v for m in sets for part in vars(m).values() for v in part])
    across, every = across[np.isfinite(across)], every[np.isfinite(every)]
    ends = float(across.min()) - 1, float(across.max()) + 1
    return ends, float(every.min()), float(every.max())
