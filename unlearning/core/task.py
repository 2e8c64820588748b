"""The task of the networks, classification: its loss, correctness and margin.

No other module of this package computes a loss from logits. Every function takes logits
(n, classes) and labels ``y`` (n,) int64 and returns one number per example, in float32 or wider.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def loss(logits: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy −log p(y) of each example, (n,)."""
    return functional.cross_entropy(_wide(logits), y, reduction="none")


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
