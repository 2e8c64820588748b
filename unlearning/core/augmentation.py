"""Random changes of images while a model is trained: mirrored, and moved by a few pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from unlearning.core.examples import Examples
from unlearning.core.recipe import Recipe
from unlearning.errors import WrongOptions


@dataclass(frozen=True)
class Moves:
    """How each of n rows is changed in one epoch.

    ``flipped`` (n,) bool; ``top`` and ``left`` (n,) int64, where the piece begins that is cut out
    of the image with ``padding`` zeros on every side.
    """

    padding: int
    flipped: Tensor
    top: Tensor
    left: Tensor

    def apply(self, x: Tensor, rows: Tensor) -> Tensor:
        """Return ``x`` (m, channels, height, width) of the rows numbered ``rows`` (m,), changed.

        A new tensor of the same shape and dtype.
        """
        height, width = x.shape[2:]
        device = x.device
        top, left, flipped = (t[rows].to(device) for t in (self.top, self.left, self.flipped))
        columns = torch.arange(width, device=device)
        columns = torch.where(flipped[:, None], columns.flip(0), columns) + left[:, None]
        lines = torch.arange(height, device=device) + top[:, None]
        padded = functional.pad(x, (self.padding,) * 4)
        images = torch.arange(len(x), device=device)[:, None, None, None]
        channels = torch.arange(x.shape[1], device=device)[:, None, None]
        return padded[images, channels, lines[:, None, :, None], columns[:, None, None, :]]


def is_asked(recipe: Recipe) -> bool:
    """Return whether the recipe changes rows at random."""
    return recipe.flip or recipe.crop_padding > 0


def draw(recipe: Recipe, count: int, *, generator: torch.Generator) -> Moves | None:
    """Draw how each of ``count`` rows is changed in an epoch; None, and no draw, if none is.

    Drawn row by row before the epoch, so that mini-batches of another size change nothing.
    """
    if not is_asked(recipe):
        return None
    flipped = torch.zeros(count, dtype=torch.bool)
    if recipe.flip:
        flipped = torch.rand(count, generator=generator) < 0.5
    offsets = torch.zeros(count, 2, dtype=torch.int64)
    if recipe.crop_padding:
        most = 2 * recipe.crop_padding
        offsets = torch.randint(0, most + 1, (count, 2), generator=generator)
    return Moves(recipe.crop_padding, flipped, offsets[:, 0], offsets[:, 1])


def check(recipe: Recipe, examples: Examples) -> None:
    """Raise ``WrongOptions`` if the rows are no images, or too small, for the augmentation."""
    if not is_asked(recipe):
        return
    shape = tuple(examples.x.shape[1:])
    if len(shape) != 3:
        raise WrongOptions(
            f"recipe.flip and recipe.crop_padding are for images (channels, height, width), and a "
            f"row of this dataset has the shape {shape}: leave them out"
        )
    if recipe.crop_padding >= min(shape[1:]):
        raise WrongOptions(
            f"recipe.crop_padding must be below the {min(shape[1:])} pixels of an image's side"
        )
