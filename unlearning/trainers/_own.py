"""Run the training code of another package, and check the weights that it returns."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unlearning.core.examples import Examples
from unlearning.errors import BadTraining, UnlearningError
from unlearning.trainers._contract import Rows, Task

#: Names that an error lists, at most.
_MOST_NAMES = 5


@dataclass(frozen=True)
class Own:
    """A trainer with its options, in place of a recipe (``training.OwnCode``)."""

    name: str
    code: Callable[..., Mapping[str, Tensor]]
    options: Any

    def train(
        self,
        model: nn.Module,
        train: Examples,
        validation: Examples,
        *,
        seed: int,
        progress: Callable[[float], None],
    ) -> None:
        """Set the weights of ``model``, which stays as it is if anything fails.

        Raise ``BadTraining`` if the code raises, or returns something else than finite tensors with
        the names, shapes and types of the model's weights. Errors of the machine, and those that
        ``progress`` raises to stop the training, are raised unchanged.
        """
        device = next(model.parameters()).device
        task = Task(copy.deepcopy(model), Rows(validation), device)
        stopped: list[BaseException] = []

        def tell(done: float) -> None:
            share = _share(self.name, done)
            try:
                progress(share)
            except BaseException as error:
                stopped.append(error)
                raise

        try:
            found = self.code(task, Rows(train), seed=seed, progress=tell, options=self.options)
        except (MemoryError, OSError, UnlearningError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # code of another package may raise anything
            if stopped:
                raise
            raise BadTraining(
                f"the trainer {self.name} raised {type(error).__name__}: {error}"
            ) from error
        model.load_state_dict(_checked(self.name, found, model.state_dict()))


def _share(name: str, done: Any) -> float:
    try:
        share = float(done)
    except (TypeError, ValueError):
        share = math.nan
    if not math.isfinite(share):
        raise BadTraining(f"the trainer {name} reported a progress that is no number from 0 to 1")
    return min(1.0, max(0.0, share))


def _checked(name: str, found: Any, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights that a trainer returned, once they are those of the network."""
    if not isinstance(found, Mapping):
        raise BadTraining(
            f"the trainer {name} returned {type(found).__name__} in place of weights: return "
            "{name: tensor}, such as task.model.state_dict()"
        )
    if missing := [key for key in wanted if key not in found]:
        raise BadTraining(f"the trainer {name} returned no weights {_listed(missing)}")
    if unknown := [str(key) for key in found if key not in wanted]:
        raise BadTraining(
            f"the trainer {name} returned weights that the network has not: {_listed(unknown)}"
        )
    for key, tensor in wanted.items():
        given = found[key]
        if not isinstance(given, Tensor):
            raise BadTraining(f"the trainer {name} returned {key} as no tensor")
        if given.shape != tensor.shape or given.dtype != tensor.dtype:
            raise BadTraining(
                f"the trainer {name} returned {key} as {_form(given)}, and the network has "
                f"{_form(tensor)}"
            )
        if given.is_floating_point() and not bool(torch.isfinite(given).all()):
            raise BadTraining(f"the trainer {name} returned values in {key} that are not finite")
    return dict(found)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
