"""The task of the networks, classification: its loss, correctness and margin.

The *loss* is the cross-entropy of the label: what is measured, what attacks and guards see. The
*training loss* is what a recipe minimises, which label smoothing and class weights change.

No other module of this package computes a loss from logits. Every function takes logits
(n, classes) and labels ``y`` (n,) int64 and returns one number per example, in float32 or wider.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from unlearning.errors import WrongOptions


def loss(logits: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy −log p(y) of each example, (n,)."""
    return functional.cross_entropy(_wide(logits), y, reduction="none")


@dataclass(frozen=True)
class TrainingLoss:
    """What a training minimises: the loss of labels smoothed by ε, weighted by class.

    With K classes, class weights w (K,) and q_c = (1 − ε)·[c = y] + ε/K an example's loss is
    −Σ_c w_c·q_c·log p(c). A mini-batch's is the mean over its examples, not divided by their
    weights: so it does not depend on how rows are divided into mini-batches.
    """

    label_smoothing: float = 0.0
    class_weights: Tensor | None = None

    @property
    def is_plain(self) -> bool:
        """Return whether it is :func:`loss`."""
        return not self.label_smoothing and self.class_weights is None

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the training loss of each example, (n,)."""
        logits = _wide(logits)
        weights = self.class_weights
        return functional.cross_entropy(
            logits,
            y,
            weight=None if weights is None else weights.to(logits),
            label_smoothing=self.label_smoothing,
            reduction="none",
        )

    def curvature_factors(self, y: Tensor) -> Tensor:
        """Return Σ_c w_c·q_c of each label (n,), 1 without class weights, (n,).

        The training loss's second derivative by the logits is that of the loss times this factor:
        label smoothing alone does not change it.
        """
        if self.class_weights is None:
            return torch.ones_like(y, dtype=torch.float32)
        weights = self.class_weights.to(y.device)
        smoothing = self.label_smoothing
        return (1 - smoothing) * weights[y] + smoothing * weights.mean()

    def to_tensors(self) -> dict[str, Tensor]:
        """Return tensors for a safetensors file, none if it is plain."""
        found = {}
        if self.label_smoothing:
            found["label_smoothing"] = torch.tensor(self.label_smoothing, dtype=torch.float64)
        if self.class_weights is not None:
            found["class_weights"] = self.class_weights
        return found


#: The loss itself.
PLAIN = TrainingLoss()


def training_loss_from_tensors(named: Mapping[str, Tensor]) -> TrainingLoss:
    """Return the training loss that :meth:`TrainingLoss.to_tensors` wrote."""
    smoothing = named.get("label_smoothing")
    return TrainingLoss(0.0 if smoothing is None else float(smoothing), named.get("class_weights"))


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """Return for each class n/(k·n_c), (classes,) float32, and 0 where ``labels`` (n,) have none.

    k is the number of classes that there are, so that the mean weight of the labels is 1.
    """
    counts = torch.bincount(labels.cpu(), minlength=classes)
    if len(counts) > classes:
        raise WrongOptions(f"a label is beyond the {classes} outputs of the network")
    present = counts > 0
    weights = torch.zeros(classes, dtype=torch.float64)
    weights[present] = len(labels) / (int(present.sum()) * counts[present].double())
    return weights.float()


def correct(logits: Tensor, y: Tensor) -> Tensor:
    """Return whether the largest logit is the label's, (n,) bool."""
    return logits.argmax(1) == y


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return the log-odds φ = z_y − log Σ_{c≠y} exp z_c of each label, (n,) float64.

    Unlike the loss's, its gradient does not vanish as p(y) → 1. −inf if only the label's logit is
    −inf (the model rules the label out), +inf if all others are −inf or there is a single class.
    NaN if the odds are undefined: a logit is NaN, all logits are −inf, or the label's and another
    are +inf.
    """
    z = logits.double()
    label = y[:, None]
    others = z.scatter(1, label, -torch.inf).logsumexp(1)
    return z.gather(1, label)[:, 0] - others


def log_probabilities(logits: Tensor) -> Tensor:
    """Return log p(c) of each example and class, (n, classes)."""
    return functional.log_softmax(_wide(logits), dim=1)


def _wide(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
