"""Inputs of a network's last linear layer, and linear layers fitted to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unlearning.core import objective
from unlearning.core.examples import Examples

#: Share of the mean squared feature that is added to the diagonal.
_RIDGE = 1e-2


def penultimate(
    model: nn.Module, examples: Examples, *, batch_size: int = objective.BATCH
) -> Tensor | None:
    """Return what the last linear layer of ``model`` receives, (n, features) float64 on the CPU.

    The last one that is called, in evaluation mode. None if there is none, or if it is not called
    with one vector per example.
    """
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    if not linear:
        return None
    seen: list[Tensor] = []

    def note(_module: nn.Module, given: tuple[Any, ...]) -> None:
        seen.append(given[0])

    hooks = [layer.register_forward_pre_hook(note) for layer in linear]
    device = next(model.parameters()).device
    parts = []
    try:
        with objective.evaluating(model), torch.no_grad():
            for x, y in examples.batches(batch_size, device=device):
                seen.clear()
                model(x)
                if not seen or seen[-1].dim() != 2 or len(seen[-1]) != len(y):
                    return None
                parts.append(seen[-1].double().cpu())
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat(parts) if parts else None


@dataclass(frozen=True)
class Layer:
    """A linear layer on standardised features: ``weights`` (features + 1, outputs)."""

    mean: Tensor
    spread: Tensor
    weights: Tensor

    def outputs(self, features: Tensor) -> Tensor:
        """Return outputs (n, outputs) of ``features`` (n, features)."""
        return _extended((features - self.mean) / self.spread) @ self.weights


def fitted(features: Tensor, targets: Tensor) -> Layer:
    """Return the ridge regression of ``targets`` (n, outputs) on ``features`` (n, features).

    A feature that is constant on these rows gets no weight, whatever it does on others.
    """
    mean, spread = features.mean(0), features.std(0)
    spread = torch.where(spread > 0, spread, torch.inf)
    z = _extended((features - mean) / spread)
    penalty = torch.full((z.shape[1],), _RIDGE * len(z), dtype=z.dtype)
    penalty[-1] = 1e-9 * len(z)
    weights: Tensor = torch.linalg.solve(z.T @ z + penalty.diag(), z.T @ targets)
    return Layer(mean, spread, weights)


def _extended(z: Tensor) -> Tensor:
    return torch.cat([z, torch.ones(len(z), 1, dtype=z.dtype)], 1)
