"""The Jacobian J of the margins: products with it, and its rows.

J (n, p) has a row for each example: the gradient of its margin with respect to the step parameters,
in evaluation mode. Products do not form J.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from unlearning.anchored import margins
from unlearning.core import objective, task
from unlearning.core.examples import Examples

#: Length of the central difference's step, relative to the weights' norm.
_DIFFERENCE = 1e-3

Weights = dict[str, Tensor]


class Jacobian:
    """J at the present weights of ``network``, which must be in evaluation mode.

    The network's weights may change between calls. Vectorised per-example gradients and
    forward-mode derivatives are used if the network's operators have them. Otherwise rows are
    computed one by one, and J·v is a central difference.
    """

    def __init__(self, network: nn.Module, examples: Examples, *, batch_size: int) -> None:
        self.network = network
        self.examples = examples
        self.batch_size = batch_size
        self.parameters = objective.step_parameters(network)
        self._vectorised = self._forward_mode = True
        self._used: Tensor | None = None

    @property
    def columns(self) -> int:
        """Return p, the number of step parameters."""
        return sum(p.numel() for p in self.parameters.values())

    def values(self) -> Tensor:
        """Return the margins themselves, (n,) float64 on the CPU."""
        return margins.of_examples(self.network, self.examples, batch_size=self.batch_size)

    def transposed(self, weights: Tensor) -> Tensor:
        """Return Jᵀ·``weights`` (p,) float64 by one backward pass; ``weights`` (n,) float64."""
        parameters = list(self.parameters.values())
        total = torch.zeros(self.columns, dtype=torch.float64, device=parameters[0].device)
        start = 0
        for x, y in self._batches():
            here = weights[start : start + len(y)].to(total.device)
            start += len(y)
            with torch.enable_grad():
                phi = task.margin(self.network(x), y)
                grads = torch.autograd.grad(phi, parameters, grad_outputs=here, allow_unused=True)
            if self._used is None:
                self._used = _used(grads, parameters)
            total += _flat(
                [
                    torch.zeros_like(p) if g is None else g
                    for g, p in zip(grads, parameters, strict=True)
                ]
            ).double()
        return total

    def times(self, vector: Tensor) -> Tensor:
        """Return J·``vector`` (n,) float64 on the CPU; ``vector`` (p,).

        Parameters without a gradient have no column in J, even if changing them would change the
        margins (a layer that is called without a gradient).
        """
        if self._used is None:
            self.transposed(torch.zeros(len(self.examples), dtype=torch.float64))
        assert self._used is not None
        vector = torch.where(self._used, vector, 0.0)
        if self._forward_mode:
            try:
                return self._by_forward_mode(vector)
            except (RuntimeError, NotImplementedError) as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                self._forward_mode = False
        return self._by_difference(vector)

    def rows(self, *, size: int) -> Iterator[Tensor]:
        """Yield J's rows in order, at most ``size`` at once, (b, p) in the parameters' dtype."""
        for x, y in self._batches(size):
            yield self._rows_of(x, y)

    def _rows_of(self, x: Tensor, y: Tensor) -> Tensor:
        if self._vectorised:
            try:
                with _plain_attention():
                    found = vmap(grad(self._margin), in_dims=(None, 0, 0))(self._detached(), x, y)
                return torch.cat([g.reshape(len(y), -1) for g in found.values()], 1)
            except RuntimeError as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                # An operator of a custom network may not be vectorisable: go row by row.
                self._vectorised = False
        parameters = list(self.parameters.values())
        rows = []
        for i in range(len(y)):
            with torch.enable_grad():
                phi = task.margin(self.network(x[i : i + 1]), y[i : i + 1])
                rows.append(
                    _flat(
                        torch.autograd.grad(
                            phi, parameters, allow_unused=True, materialize_grads=True
                        )
                    )
                )
        return torch.stack(rows)

    def _margin(self, weights: Weights, x: Tensor, y: Tensor) -> Tensor:
        logits = functional_call(self.network, weights, (x[None],))
        return task.margin(logits, y[None])[0]

    def _by_forward_mode(self, vector: Tensor) -> Tensor:
        tangents = {
            name: piece.to(self.parameters[name].dtype)
            for name, piece in objective.unflatten(vector, self.network).items()
        }
        weights = self._detached()
        parts = []
        for x, y in self._batches():

            def phi(at: Weights, x: Tensor = x, y: Tensor = y) -> Tensor:
                return task.margin(functional_call(self.network, at, (x,)), y)

            with _plain_attention():
                pushed = jvp(phi, (weights,), (tangents,))[1]
            parts.append(pushed.detach().cpu())
        return torch.cat(parts)

    def _by_difference(self, vector: Tensor) -> Tensor:
        start = objective.flatten(self.network)
        length = float(torch.linalg.vector_norm(vector))
        if not length:
            return torch.zeros(len(self.examples), dtype=torch.float64)
        step = _DIFFERENCE * max(float(torch.linalg.vector_norm(start)), 1e-12) / length
        change = (step * vector).to(start.dtype)
        try:
            objective.load(self.network, start + change)
            ahead = self.values()
            objective.load(self.network, start - change)
            behind = self.values()
        finally:
            objective.load(self.network, start)
        return (ahead - behind) / (2 * step)

    def _detached(self) -> Weights:
        return {name: p.detach() for name, p in self.parameters.items()}

    def _batches(self, size: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        device = next(iter(self.parameters.values())).device
        return self.examples.batches(size or self.batch_size, device=device)


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Make attention use its plain form: the fused ones have no forward-mode derivative."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _flat(tensors: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


def _used(grads: tuple[Tensor | None, ...], parameters: list[nn.Parameter]) -> Tensor:
    """Return which entries of the flat vector have a gradient, (p,) bool."""
    return _flat(
        [
            torch.full_like(p, g is not None, dtype=torch.bool)
            for g, p in zip(grads, parameters, strict=True)
        ]
    )
