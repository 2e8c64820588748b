"""What an image encoder's preprocessor_config.json has done to an image: size, mean, deviation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from unlearning.errors import WrongOptions

#: Pillow's numbers of the resampling filters that torch has too.
_FILTERS = {2: "bilinear", 3: "bicubic"}
_BYTE = 255


@dataclass(frozen=True)
class Preparation:
    """Resize to ``size`` (height, width), then (factor · x − mean) / std for each channel."""

    size: tuple[int, int]
    filter: str
    factor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """Return the encoder's input (n, channels, *size) of images in [0, 1], (n, channels, h, w).

        As with Pillow, smaller results are antialiased, rows are resized before columns, and
        where the bicubic filter overshoots the values are cut off after each of the two.
        """
        height, width = self.size
        for size in ((x.shape[-2], width), (height, width)):
            if tuple(x.shape[-2:]) != size:
                x = functional.interpolate(
                    x, size, mode=self.filter, align_corners=False, antialias=True
                ).clamp(0, 1)
        mean, std = (
            torch.tensor(one, dtype=x.dtype, device=x.device)[:, None, None]
            for one in (self.mean, self.std)
        )
        return (self.factor * x - mean) / std


def read(config: Mapping[str, Any], *, size: tuple[int, int], channels: int) -> Preparation:
    """Return the preparation that a preprocessor_config.json describes; raise ``WrongOptions``.

    ``size`` is that of the encoder's images, to which every image is brought.
    """
    _check_size(config, size)
    rescale = config.get("rescale_factor", 1 / _BYTE) if config.get("do_rescale", True) else 1.0
    if not _is_number(rescale) or not rescale > 0 or not _is_number(rescale * _BYTE):
        raise WrongOptions("preprocessor_config.json has a rescale_factor that is no factor")
    mean, std = (0.0,) * channels, (1.0,) * channels
    if config.get("do_normalize", True):
        mean = _per_channel(config, "image_mean", channels)
        std = _per_channel(config, "image_std", channels)
    if min(std) < torch.finfo(torch.float32).tiny:
        raise WrongOptions("preprocessor_config.json has an image_std that is not above 0")
    resample = config.get("resample", 2)
    filter = _FILTERS.get(resample) if isinstance(resample, int) else None
    if filter is None:
        raise WrongOptions(
            "preprocessor_config.json has another resample than 2 (bilinear) or 3 (bicubic)"
        )
    return Preparation(size, filter, float(rescale) * _BYTE, mean, std)


def _check_size(config: Mapping[str, Any], size: tuple[int, int]) -> None:
    if config.get("do_center_crop"):
        raise WrongOptions(
            "preprocessor_config.json crops images (do_center_crop), and here they are resized "
            "whole; crop them before they are ingested, and set do_center_crop to false"
        )
    if not config.get("do_resize", True):
        return
    stated = config.get("size", {"height": size[0], "width": size[1]})
    if isinstance(stated, int):
        stated = {"height": stated, "width": stated}
    if stated != {"height": size[0], "width": size[1]}:
        raise WrongOptions(
            f"preprocessor_config.json must resize to the {size[0]} × {size[1]} (height and width) "
            "that config.json has as image_size"
        )


def _per_channel(config: Mapping[str, Any], name: str, channels: int) -> tuple[float, ...]:
    found = config.get(name, [0.5] * channels)
    if (
        not isinstance(found, Sequence)
        or len(found) != channels
        or not all(_is_number(one) for one in found)
    ):
        raise WrongOptions(
            f"preprocessor_config.json must have {channels} numbers as {name}, one for each channel"
        )
    return tuple(float(one) for one in found)


def _is_number(one: Any) -> bool:
    """Return whether it is a number that float32 holds."""
    if not isinstance(one, int | float) or isinstance(one, bool):
        return False
    return abs(one) <= torch.finfo(torch.float32).max
