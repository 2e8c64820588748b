"""Estimate K-FAC of a network's mean loss from examples.

The factors are sums over batches of what forward and backward passes leave at each Linear and
Conv2d layer; the diagonal of everything else comes from the gradients of the same passes. ``kfac``
says what is estimated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from unlearning.core import objective, ranks, task
from unlearning.core.examples import Examples, pieces
from unlearning.core.ranks import Division
from unlearning.core.task import TrainingLoss
from unlearning.curvature import signals
from unlearning.curvature.kfac import Block, Kfac
from unlearning.curvature.signals import Fisher
from unlearning.errors import UnusableDirection

#: Number of rows of a factor above which only its diagonal is kept.
LARGEST_FACTOR = 5120


def estimate(
    model: nn.Module,
    examples: Examples,
    *,
    fisher: Fisher = "type2",
    loss: TrainingLoss = task.PLAIN,
    relative_damping: float = 0.1,
    batch_size: int = 128,
    generator: torch.Generator,
    progress: Callable[[float], None] = lambda _fraction: None,
) -> Kfac:
    """Estimate the curvature of the mean training loss at the model's weights, in evaluation mode.

    ``type2`` takes the expectation over labels drawn from the model, exactly up to
    ``EXACT_CLASSES`` (of ``signals``) with one backward pass per class; ``empirical`` the given
    labels, one pass. Weights in half precision are widened to float32. Memory is linear in the
    classes. λ is ``relative_damping`` times the mean diagonal of K, because an absolute value does
    not carry over from one network to another.

    ``core.ranks`` divide the batches; each batch is drawn for as it is on a single one.
    """
    if objective.is_narrow(model):
        model = objective.widened(model)
    parameters = objective.step_parameters(model)
    device = next(iter(parameters.values())).device
    with objective.evaluating(model):
        layers = _covered(model, examples, parameters, device)
        rest = _uncovered(layers, parameters)
        squares = [
            torch.zeros(p.numel(), dtype=torch.float64, device=device) for p in rest.values()
        ]
        # The diagonal is estimated from sums over a batch: small batches, small variance.
        size = min(batch_size, 32) if rest else batch_size
        division = ranks.by_batches(len(examples), size)
        mine = division.part(examples)
        before, after = _elsewhere(len(examples), size, division)
        _pass_over(before, model, examples, fisher, generator)
        with _recording(layers):
            for i, (x, y) in enumerate(mine.batches(size, device=device)):
                weights = loss.curvature_factors(y)
                _accumulate(
                    model, x, y, weights, layers, list(rest.values()), squares, fisher, generator
                )
                progress(min(1.0, (i + 1) * size / len(mine)))
        _pass_over(after, model, examples, fisher, generator)
        squares = _united(layers, squares, division)
    return _assemble(layers, parameters, rest, squares, len(examples), relative_damping)


@dataclass
class _Call:
    """Inputs (n, places, i) of a linear layer, and which places a gradient has reached."""

    inputs: Tensor
    reached: Tensor


@dataclass
class _Layer:
    """A Linear or Conv2d whose factors are being summed."""

    module: nn.Linear | nn.Conv2d
    weight: int
    bias: int
    inputs: Tensor
    outputs: Tensor
    locations: int = 0
    calls: int = 0
    #: Calls on sequences whose backward passes are under way.
    waiting: list[_Call] = field(default_factory=list)

    def see(self, x: Tensor) -> _Call | None:
        """Add a batch of inputs; those of sequences wait for ``settle``."""
        self.calls += 1
        if isinstance(self.module, nn.Linear) and x.dim() > 2:
            call = _Call(x, torch.zeros(x.shape[:-1], dtype=torch.bool, device=x.device))
            self.waiting.append(call)
            return call
        self._add(_patches(self.module, x))
        return None

    def hear(self, grad: Tensor, call: _Call | None) -> None:
        """Add a batch of gradients at the outputs of a call."""
        if call is not None:
            call.reached |= grad.ne(0).any(-1)
        signals = _by_group(self.module, grad)
        self.outputs += _moments(signals, self.outputs)

    def settle(self) -> None:
        """Add the inputs of the sequences' places that a gradient has reached.

        Padding is reached by none: with its inputs the factor would be that of other inputs.
        """
        for call in self.waiting:
            self._add(call.inputs[call.reached][None])
        self.waiting.clear()

    def _add(self, patches: Tensor) -> None:
        if self.bias >= 0:
            patches = torch.cat([patches, patches.new_ones(*patches.shape[:2], 1)], 2)
        self.locations += patches.shape[1]
        self.inputs += _moments(patches, self.inputs)


def _moments(rows: Tensor, total: Tensor) -> Tensor:
    """Return Σ r rᵀ of rows (groups, n, k), float64, or its diagonal if ``total`` is one."""
    if total.dim() == 2:
        return rows.square().sum(1).double()
    return (rows.mT @ rows).double()


def _accumulate(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    weights: Tensor,
    layers: list[_Layer],
    rest: list[nn.Parameter],
    squares: list[Tensor],
    fisher: Fisher,
    generator: torch.Generator,
) -> None:
    with torch.enable_grad():
        logits = model(x)
    count, vectors = signals.of(logits.detach(), y, fisher, generator)
    targets: list[Tensor] = [layer.module.weight for layer in layers] + list(rest)
    for k, vector in enumerate(vectors):
        # Independent signs leave every per-example product g gᵀ unchanged and make the expected
        # square of a sum over the batch the sum of the squares, which is the diagonal.
        signs = _signs(len(x), generator).to(vector)
        signs *= weights.sqrt()[:, None].to(vector)
        grads = torch.autograd.grad(
            logits,
            targets,
            grad_outputs=vector * signs,
            retain_graph=k + 1 < count,
            allow_unused=True,
            materialize_grads=True,
        )
        for total, grad in zip(squares, grads[len(layers) :], strict=True):
            total += grad.reshape(-1).double().square()
    for layer in layers:
        layer.settle()


def _elsewhere(rows: int, size: int, division: Division) -> tuple[list[int], list[int]]:
    """Return the numbers of rows of the batches that ranks before and after this one take."""
    if not division.bounds:
        return [], []
    begin, end = division.bounds[ranks.own()]
    batches = pieces(rows, size)
    before = [here.stop - here.start for here in batches if here.stop <= begin]
    return before, [here.stop - here.start for here in batches if here.start >= end]


def _pass_over(
    batches: list[int],
    model: nn.Module,
    examples: Examples,
    fisher: Fisher,
    generator: torch.Generator,
) -> None:
    """Draw what ``_accumulate`` draws for other ranks' batches of so many rows."""
    if not batches:
        return
    classes = objective.logits(model, examples.subset(torch.arange(1))).shape[1]
    for rows in batches:
        for _ in signals.drawn(rows, classes, fisher, generator):
            _signs(rows, generator)


def _signs(rows: int, generator: torch.Generator) -> Tensor:
    """Draw 1 or −1 for each row, (rows, 1)."""
    return torch.randint(2, (rows, 1), generator=generator) * 2 - 1


def _united(layers: list[_Layer], squares: list[Tensor], division: Division) -> list[Tensor]:
    """Add the other ranks' sums to the layers'; return the sums of ``squares``."""
    for layer in layers:
        places = torch.tensor([layer.locations], device=layer.inputs.device)
        # One factor at a time: they are large.
        (layer.inputs,) = division.summed([layer.inputs])
        (layer.outputs,) = division.summed([layer.outputs])
        layer.locations = int(division.summed([places])[0])
    return division.summed(squares)


def _covered(
    model: nn.Module, examples: Examples, parameters: dict[str, nn.Parameter], device: torch.device
) -> list[_Layer]:
    """Return the layers with a weight of their own that a forward pass calls with a gradient."""
    starts, position = {}, 0
    for p in parameters.values():
        starts[id(p)], position = position, position + p.numel()
    owners: dict[int, int] = {}
    for module in model.modules():
        for p in module.parameters(recurse=False):
            owners[id(p)] = owners.get(id(p), 0) + 1
    layers = []
    for module in model.modules():
        if type(module) not in (nn.Linear, nn.Conv2d):
            continue
        assert isinstance(module, nn.Linear | nn.Conv2d)
        if id(module.weight) not in starts or owners[id(module.weight)] > 1:
            continue
        bias = module.bias
        with_bias = bias is not None and id(bias) in starts and owners[id(bias)] == 1
        layers.append(_empty(module, starts, bias=starts[id(bias)] if with_bias else -1))
    with _recording(layers), torch.enable_grad():
        ((x, _),) = examples.subset(torch.arange(1)).batches(1, device=device)
        model(x)
    called = [layer for layer in layers if layer.calls]
    return [_empty(layer.module, starts, bias=layer.bias) for layer in called]


def _empty(module: nn.Linear | nn.Conv2d, starts: dict[int, int], *, bias: int) -> _Layer:
    groups = module.groups if isinstance(module, nn.Conv2d) else 1
    o = module.weight.shape[0] // groups
    i = module.weight[0].numel() + (bias >= 0)
    kind = {"dtype": torch.float64, "device": module.weight.device}
    return _Layer(
        module,
        starts[id(module.weight)],
        bias,
        torch.zeros(_shape(groups, i), **kind),  # type: ignore[call-overload]
        torch.zeros(_shape(groups, o), **kind),  # type: ignore[call-overload]
    )


def _shape(groups: int, size: int) -> tuple[int, ...]:
    return (groups, size) if size > LARGEST_FACTOR else (groups, size, size)


def _uncovered(
    layers: list[_Layer], parameters: dict[str, nn.Parameter]
) -> dict[str, nn.Parameter]:
    covered = {id(layer.module.weight) for layer in layers}
    covered |= {id(layer.module.bias) for layer in layers if layer.bias >= 0}
    return {name: p for name, p in parameters.items() if id(p) not in covered}


@contextmanager
def _recording(layers: list[_Layer]) -> Iterator[None]:
    def attach(layer: _Layer) -> Callable[..., None]:
        def after(
            _module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor
        ) -> None:
            # A call under no_grad has no part in the gradient and so no factor.
            if not output.requires_grad:
                return
            call = layer.see((inputs[0] if inputs else named["input"]).detach())

            # A hook set before an in-place ReLU still receives the gradient at this output.
            def hear(grad: Tensor) -> None:
                layer.hear(grad.detach(), call)

            output.register_hook(hear)  # type: ignore[no-untyped-call]  # torch has no types here

        return after

    handles = [
        layer.module.register_forward_hook(attach(layer), with_kwargs=True) for layer in layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _patches(module: nn.Linear | nn.Conv2d, x: Tensor) -> Tensor:
    """Return the inputs of every location and example, (groups, locations, i)."""
    if isinstance(module, nn.Linear):
        return x.reshape(1, -1, x.shape[-1])
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = functional.pad(x, module._reversed_padding_repeated_twice, mode=mode)
    columns = functional.unfold(
        x, module.kernel_size, dilation=module.dilation, stride=module.stride
    )
    n, _, places = columns.shape
    columns = columns.view(n, module.groups, -1, places)
    return columns.permute(1, 0, 3, 2).reshape(module.groups, n * places, -1)


def _by_group(module: nn.Linear | nn.Conv2d, grad: Tensor) -> Tensor:
    """Return the gradients at the outputs of every location and example, (groups, locations, o)."""
    if isinstance(module, nn.Linear):
        return grad.reshape(1, -1, grad.shape[-1])
    n = grad.shape[0]
    grad = grad.reshape(n, module.groups, -1, grad.shape[2] * grad.shape[3])
    return grad.permute(1, 0, 3, 2).reshape(module.groups, n * grad.shape[3], -1)


def _assemble(
    layers: list[_Layer],
    parameters: dict[str, nn.Parameter],
    rest: dict[str, nn.Parameter],
    squares: list[Tensor],
    count: int,
    relative_damping: float,
) -> Kfac:
    dtype = next(iter(parameters.values())).dtype
    blocks = tuple(_block(layer, count, dtype) for layer in layers)
    starts, position = {}, 0
    for name, p in parameters.items():
        starts[name], position = position, position + p.numel()
    device = next(iter(parameters.values())).device
    places = [
        torch.arange(starts[n], starts[n] + p.numel(), device=device) for n, p in rest.items()
    ]
    none = torch.zeros(0, dtype=torch.int64, device=device)
    positions = torch.cat(places) if places else none
    diagonal = torch.cat(squares) / count if squares else none.double()
    trace = float(diagonal.sum()) + sum(
        float((b.input_values.sum(1) * b.output_values.sum(1)).double().sum()) for b in blocks
    )
    damping = relative_damping * trace / position
    if not damping > 0 or not torch.isfinite(torch.tensor(damping)):
        raise UnusableDirection(
            "the curvature is zero or not finite: the model's outputs do not depend on its "
            "weights, or its weights are damaged; train it again"
        )
    return Kfac(damping, blocks, positions, diagonal.to(dtype))


def _block(layer: _Layer, count: int, dtype: torch.dtype) -> Block:
    return Block(
        layer.weight,
        layer.bias,
        *_eigen(layer.inputs / max(1, layer.locations), dtype),
        *_eigen(layer.outputs / count, dtype),
    )


def _eigen(factor: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return eigenvalues (groups, k) and eigenvectors; none of a diagonal factor (groups, k)."""
    if factor.dim() == 2:
        return factor.to(dtype), factor.new_empty(len(factor), 0, 0, dtype=dtype)
    found = torch.linalg.eigh(factor)
    return found.eigenvalues.clamp_min(0).to(dtype), found.eigenvectors.to(dtype)
