"""A training at the end of an epoch: everything the next epoch depends on, as named tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearning.core import update_log
from unlearning.core.update_log import UpdateLog
from unlearning.errors import WrongOptions

_ONCE = ("best_epoch", "history", "generator", "random")
_PARTS = ("weights", "best", "optimiser")


@dataclass(frozen=True)
class TrainingState:
    """The state after ``len(history)`` epochs; a training that resumes from it ends the same way.

    ``weights`` and ``best`` are state dicts, ``optimiser`` is ``{"<parameter>.<name>": tensor}``,
    ``history`` (epochs, 3) float64, ``generator`` and ``random`` (n,) uint8 the states of the
    caller's generator and of torch's global ones (``device_random`` is the device's, if it has
    one). The tensors are the training's own: copy them before it continues.
    """

    weights: Mapping[str, Tensor]
    best: Mapping[str, Tensor]
    best_epoch: int
    history: Tensor
    optimiser: Mapping[str, Tensor]
    generator: Tensor
    random: Tensor
    device_random: Tensor | None = None
    log: UpdateLog | None = None

    def to_tensors(self) -> dict[str, Tensor]:
        """Return tensors for a safetensors file; :func:`from_tensors` reads them."""
        named = {
            "best_epoch": torch.tensor(self.best_epoch),
            "history": self.history,
            "generator": self.generator,
            "random": self.random,
        }
        if self.device_random is not None:
            named["device_random"] = self.device_random
        for part in _PARTS:
            named |= {f"{part}.{name}": t for name, t in getattr(self, part).items()}
        if self.log is not None:
            named |= {f"log.{name}": t for name, t in self.log.to_tensors().items()}
        return named


def from_tensors(named: Mapping[str, Tensor]) -> TrainingState:
    """Return the state that :meth:`TrainingState.to_tensors` wrote."""
    if missing := set(_ONCE) - set(named):
        raise WrongOptions(f"not the state of a training: {', '.join(sorted(missing))} missing")
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in (*_PARTS, "log")}
    for name, tensor in named.items():
        part, _, rest = name.partition(".")
        if part in parts:
            parts[part][rest] = tensor
    log = parts.pop("log")
    return TrainingState(
        **parts,
        best_epoch=int(named["best_epoch"]),
        history=named["history"],
        generator=named["generator"],
        random=named["random"],
        device_random=named.get("device_random"),
        log=update_log.from_tensors(log) if log else None,
    )


def capture(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    *,
    best: Mapping[str, Tensor],
    best_epoch: int,
    history: Tensor,
    generator: torch.Generator,
    log: UpdateLog | None,
) -> TrainingState:
    """Return the state of a training that is about to begin its next epoch."""
    device = next(model.parameters()).device
    return TrainingState(
        weights=model.state_dict(),
        best=best,
        best_epoch=best_epoch,
        history=history,
        optimiser={
            f"{index}.{name}": value
            for index, values in optimiser.state_dict()["state"].items()
            for name, value in values.items()
            if isinstance(value, Tensor)
        },
        generator=generator.get_state(),
        random=torch.get_rng_state(),
        device_random=torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        log=log,
    )


def restore(
    state: TrainingState,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    *,
    generator: torch.Generator,
    log: UpdateLog | None,
) -> None:
    """Restore model, optimiser, generators and log to the state."""
    device = next(model.parameters()).device
    try:
        model.load_state_dict(state.weights)
    except RuntimeError as error:
        raise WrongOptions(f"the state is another network's: {error}") from error
    values: dict[int, dict[str, Tensor]] = {}
    for key, tensor in state.optimiser.items():
        index, _, name = key.partition(".")
        values.setdefault(int(index), {})[name] = tensor
    settings = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": values, "param_groups": settings})
    generator.set_state(state.generator)
    torch.set_rng_state(state.random)
    if state.device_random is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state.device_random, device)
    if log is not None:
        if state.log is None:  # not asked for before, so the updates until here are not known
            log.complete = False
        else:
            log.take(state.log)


Keep = Callable[[TrainingState], None]
