"""A network with the transform of its input."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearning.errors import WrongOptions
from unlearning.inputs import Kind


@dataclass(frozen=True)
class Transform:
    """From stored rows to network input: (x · scale − mean) / std, per channel or feature.

    ``mean`` and ``std`` hold one number, or one per channel (per feature of a table).
    """

    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


class Classifier(nn.Module):
    """A network with its input transform; takes stored rows, returns logits (n, classes).

    The transform runs on the device. It is configuration, not weights: the checkpoint of a model
    is ``classifier.network.state_dict()``. Without a ``kind`` of input the network is called with
    the transformed rows; without a ``transform`` the kind receives them as stored.
    """

    factor: Tensor
    shift: Tensor

    def __init__(
        self, network: nn.Module, transform: Transform | None, kind: Kind | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.transform = transform
        self.kind = kind
        if transform is None:
            return
        _check(transform)
        std = torch.tensor(transform.std, dtype=torch.float64)
        mean = torch.tensor(transform.mean, dtype=torch.float64)
        # One multiplication and one subtraction: x·(scale/std) − mean/std.
        self.register_buffer("factor", (transform.scale / std).float(), persistent=False)
        self.register_buffer("shift", (mean / std).float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of ``x`` (n, *shape), as it is stored or floating.

        Channels, or features, are in dimension 1.
        """
        logits: Tensor = self.network(*self.inputs(x))
        return logits

    def inputs(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return what the network is called with for ``x`` (n, *shape)."""
        if self.transform is not None:
            shape = (1, -1) + (1,) * (x.dim() - 2)
            x = x.to(self.factor.dtype) if not x.is_floating_point() else x
            x = x * self.factor.view(shape) - self.shift.view(shape)
        return (x,) if self.kind is None else self.kind.input.collate(x, self.kind.options)


def _check(transform: Transform) -> None:
    if min(transform.std, default=0.0) <= 0:
        raise WrongOptions("every std of the input transform must be above zero")
    sizes = {len(transform.mean), len(transform.std)} - {1}
    if len(sizes) > 1 or not transform.mean:
        raise WrongOptions("mean and std of the input transform need one number per channel")
