"""Recipes: how a model is trained, and which options do not go together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MaxLen

from unlearning.core import options

Weight = Annotated[float, Gt(0), Le(1e6)]


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. The defaults are the published setting."""

    optimiser: Literal["adam", "adamw", "sgd"] = "adam"
    #: The schedule and the warm-up scale it.
    learning_rate: Annotated[float, Gt(0), Le(10)] = 1e-3
    #: Of ``sgd``.
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    #: Of ``sgd``: the gradient where the momentum leads (Nesterov).
    nesterov: bool = False
    #: ``adam`` and ``sgd`` add it, times the weights, to the gradient; ``adamw`` shrinks the
    #: weights by it.
    weight_decay: Annotated[float, Ge(0), Le(1)] = 0.0
    batch_size: Annotated[int, Ge(1), Le(65_536)] = 64
    #: Mini-batches whose gradients make one update; the mean is over all their rows.
    accumulate: Annotated[int, Ge(1), Le(65_536)] = 1
    epochs: Annotated[int, Ge(1), Le(10_000)] = 200
    #: ``best``: the weights of the epoch with the best validation accuracy, and training stops
    #: early (``patience``); ``last``: those of the last of ``epochs``.
    keep: Literal["best", "last"] = "best"
    #: Epochs without a better validation accuracy before training stops.
    patience: Annotated[int, Ge(1), Le(10_000)] = 10
    #: How the learning rate goes down after the warm-up: not at all, along half a cosine, linearly
    #: (both until the last of ``epochs``), or by ``step_factor`` after each of ``step_epochs``.
    schedule: Literal["constant", "cosine", "linear", "step"] = "constant"
    #: Epochs in which the learning rate rises linearly from 0.
    warmup_epochs: Annotated[int, Ge(0), Le(10_000)] = 0
    #: Share of the learning rate that ``cosine`` and ``linear`` end with.
    final_share: Annotated[float, Ge(0), Le(1)] = 0.0
    #: Of ``step``: the numbers of epochs after which the rate goes down, rising.
    step_epochs: Annotated[tuple[Annotated[int, Ge(1), Le(10_000)], ...], MaxLen(100)] = ()
    #: Of ``step``.
    step_factor: Annotated[float, Gt(0), Lt(1)] = 0.1
    #: Share of each label that is spread evenly over all classes.
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    #: Weights of the rows by their class: ``balanced`` makes every class count the same, whatever
    #: its number of training rows; or a weight for each class, in the order of the labels.
    class_weights: Literal["none", "balanced"] | Annotated[tuple[Weight, ...], MaxLen(100_000)] = (
        "none"
    )
    #: Norm to which the gradient of an update is shortened if it is longer; null: never.
    clip_norm: Annotated[float, Gt(0), Le(1e6)] | None = None
    #: Images only: each is mirrored left to right, or not, anew in every epoch.
    flip: bool = False
    #: Images only: pixels of zeros on every side, from which a piece of the image's own size is cut
    #: at random, anew in every epoch.
    crop_padding: Annotated[int, Ge(0), Le(512)] = 0
    #: ``bfloat16``: on a GPU that has it, products are in bfloat16 and weights in float32;
    #: elsewhere it is the same as ``full``.
    precision: Literal["full", "bfloat16"] = "full"
    #: Weight α of the gradient restriction; 0 turns it off.
    alpha: Annotated[float, Ge(0), Le(10)] = 0.005
    #: ``finite_difference`` takes two plain passes and works for any operator;
    #: ``double_backward`` is exact and several times dearer.
    restriction: Literal["finite_difference", "double_backward"] = "finite_difference"
    #: ``per_tensor``: the sum of the norms of each parameter tensor's gradient;
    #: ``joint``: the norm of the whole gradient.
    norm: Literal["per_tensor", "joint"] = "per_tensor"
    #: Step r of the finite difference. Below about 1e-3 float32 rounding takes over.
    radius: Annotated[float, Gt(0), Le(1)] = 1e-2

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for options that do not go together."""
        for conflict in CONFLICTS:
            if conflict.applies(self):
                raise ValueError(conflict.reason)
        if self.warmup_epochs and self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs must be below the {self.epochs} epochs of the training"
            )
        if any(b <= a for a, b in zip(self.step_epochs, self.step_epochs[1:], strict=False)):
            raise ValueError("step_epochs must rise")
        if self.step_epochs and self.step_epochs[-1] >= self.epochs:
            raise ValueError(f"step_epochs must be below the {self.epochs} epochs of the training")


@dataclass(frozen=True)
class Conflict:
    """Options that do not go together: a JSON schema for each, and why together they are refused.

    The schemas use the words of ``_HOLDS`` only.
    """

    when: Mapping[str, Mapping[str, Any]]
    reason: str

    def applies(self, recipe: Recipe) -> bool:
        """Return whether the recipe is refused."""
        return all(
            _HOLDS[word](getattr(recipe, name), wanted)
            for name, words in self.when.items()
            for word, wanted in words.items()
        )

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema that accepts all other recipes; every option must be there."""
        when = {name: dict(words) for name, words in self.when.items()}
        return {
            "not": {"properties": when, "required": list(when)},
            "description": self.reason,
        }


_HOLDS: dict[str, Any] = {
    "enum": lambda value, wanted: value in wanted,
    "maximum": lambda value, wanted: value <= wanted,
    "exclusiveMinimum": lambda value, wanted: value > wanted,
    "minItems": lambda value, wanted: len(value) >= wanted,
    "maxItems": lambda value, wanted: len(value) <= wanted,
}

CONFLICTS = (
    Conflict(
        {"nesterov": {"enum": [True]}, "optimiser": {"enum": ["adam", "adamw"]}},
        "nesterov is an option of the optimiser sgd",
    ),
    Conflict(
        {"nesterov": {"enum": [True]}, "momentum": {"maximum": 0}},
        "nesterov needs a momentum above 0",
    ),
    Conflict(
        {"schedule": {"enum": ["step"]}, "step_epochs": {"maxItems": 0}},
        "the schedule step needs step_epochs, after which the learning rate goes down",
    ),
    Conflict(
        {"schedule": {"enum": ["constant", "cosine", "linear"]}, "step_epochs": {"minItems": 1}},
        "step_epochs is an option of the schedule step",
    ),
    Conflict(
        {"schedule": {"enum": ["constant", "step"]}, "final_share": {"exclusiveMinimum": 0}},
        "final_share is an option of the schedules cosine and linear",
    ),
    Conflict(
        {"precision": {"enum": ["bfloat16"]}, "alpha": {"exclusiveMinimum": 0}},
        "the gradient restriction is lost in the rounding of bfloat16: set alpha to 0, or "
        "precision to full",
    ),
)


def schema() -> dict[str, Any]:
    """Return the JSON schema of recipes, with what does not go together under ``allOf``."""
    return options.schema(Recipe) | {"allOf": [conflict.schema() for conflict in CONFLICTS]}
