"""Where the rows of one class lie among the others, before and after: an illustration.

Penultimate features of several models under one t-SNE. Every network has a basis of its own, so
each model's features are first turned onto the base's (orthogonal Procrustes on never-seen rows,
which keeps all distances within a model); what the picture shows is arrangement, not measure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot as plt
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor, nn

from unlearning.core.examples import Examples, concatenate
from unlearning.methods import boundary_expanding

#: Never-seen rows and rows to forget that are drawn.
NEVER_SEEN, FORGET = 500, 150
_COMPONENTS = 30

Features = NDArray[np.float64]


@dataclass(frozen=True)
class _View:
    """One model's rows in the plane; ``predicted`` (n,) their classes as the model sees them."""

    plane: Features
    predicted: NDArray[np.int64]


def draw(
    models: Mapping[str, nn.Module],
    forget: Examples,
    never_seen: Examples,
    path: Path,
    *,
    label: int,
) -> None:
    """One panel per model, the first being the base; rows to forget of class ``label`` stand out.

    Colours are the classes that the model predicts.
    """
    generator = torch.Generator().manual_seed(0)
    ours = forget.subset((forget.labels == label).nonzero()[:, 0])
    ours = ours.sample(FORGET, generator=generator)
    others = never_seen.sample(NEVER_SEEN, generator=generator)
    views = _project(models, _gather(others), _gather(ours))
    columns = min(3, len(views))
    rows = -(-len(views) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(4 * columns, 3.9 * rows),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    colours = plt.get_cmap("tab10")
    for axis in axes.flat[len(views) :]:
        axis.set_axis_off()
    for axis, (title, view) in zip(axes.flat, views.items(), strict=False):
        seen = slice(len(others), None)
        unseen = slice(0, len(others))
        axis.scatter(
            *view.plane[unseen].T, s=7, c=colours(view.predicted[unseen] % 10), alpha=0.45, lw=0
        )
        axis.scatter(
            *view.plane[seen].T,
            s=20,
            c=colours(view.predicted[seen] % 10),
            edgecolors="black",
            linewidths=0.7,
        )
        own = float((view.predicted[seen] == label).mean())
        axis.set_title(f"{title}\nforget rows seen as class {label}: {own:.0%}", fontsize=10)
        axis.set(xticks=[], yticks=[])
    figure.suptitle(
        f"Illustration: t-SNE of penultimate features, one projection for all models.\n"
        f"Colour: predicted class. Ringed: rows to forget of class {label}; small: never seen.",
        fontsize=10,
    )
    figure.savefig(path, dpi=140, bbox_inches="tight")
    plt.close(figure)


def features(model: nn.Module, examples: Examples) -> tuple[Tensor, Tensor]:
    """Input of the last linear layer (n, d) and the predicted classes (n,)."""
    head = model.get_submodule(boundary_expanding.head(model, examples))
    caught: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _module, inputs: caught.append(inputs[0]))
    try:
        with torch.no_grad():
            logits = torch.cat([model(x) for x, _ in examples.batches(500)])
    finally:
        hook.remove()
    return torch.cat(caught), logits.argmax(1)


def _project(
    models: Mapping[str, nn.Module], never_seen: Examples, forget: Examples
) -> dict[str, _View]:
    everything = concatenate(never_seen, forget)
    found = {title: features(model, everything) for title, model in models.items()}
    turned: list[Features] = []
    for caught, _ in found.values():
        centred = _standardised(caught.double().numpy(), len(never_seen))
        if turned:
            rotation, _ = orthogonal_procrustes(
                centred[: len(never_seen)], turned[0][: len(never_seen)]
            )
            centred = centred @ rotation
        turned.append(centred)
    together = np.concatenate(turned)
    components = min(_COMPONENTS, *together.shape)
    reduced = PCA(components, random_state=0).fit_transform(together)
    plane = TSNE(2, init="pca", perplexity=30, random_state=0).fit_transform(reduced)
    pieces = np.split(plane, len(found))
    return {
        title: _View(piece, predicted.numpy())
        for (title, (_, predicted)), piece in zip(found.items(), pieces, strict=True)
    }


def _standardised(values: Features, count: int) -> Features:
    """Centred, and scaled to unit spread, by the first ``count`` rows."""
    centred = values - values[:count].mean(axis=0)
    return np.asarray(centred / np.sqrt((centred[:count] ** 2).sum(axis=1).mean()))


def _gather(examples: Examples) -> Examples:
    """The rows themselves, so that sets from different storage can be joined."""
    return Examples(examples.x[examples.positions], examples.labels)
