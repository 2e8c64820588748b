"""Encoded images to pixels."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from workers.readers.contract import ReadError

_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM")
_MAX_PIXELS = 1 << 25
_GRAY, _COLOUR = ("1", "L", "LA", "La"), ("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "HSV")


class Decoder:
    """Decodes one dataset's images, all of one size; the first image says which.

    A gray image among colour ones becomes colour; a colour image among gray ones is refused.
    """

    def __init__(self, *, resize: tuple[int, int] | None, column: str) -> None:
        self._resize, self._column = resize, column
        self._shape: tuple[int, int, int] | None = None

    def decode(
        self, encoded: Sequence[bytes | memoryview | None], *, first: int
    ) -> npt.NDArray[np.uint8]:
        """Pixels (k, channels, height, width) uint8; ``first`` is the row number of [0]."""
        pixels = np.empty((0, 0, 0, 0), np.uint8)
        for position, content in enumerate(encoded):
            image = self._one(content, first + position)
            if position == 0:
                pixels = np.empty((len(encoded), *(self._shape or ())), np.uint8)
            pixels[position] = image if image.ndim == 2 else np.moveaxis(image, 2, 0)
        return pixels

    def _one(self, content: bytes | memoryview | None, row: int) -> npt.NDArray[np.uint8]:
        if not content:
            raise self._error("the image is missing; its bytes must lie in the file", row)
        try:
            with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
                return self._pixels(image, row)
        except ReadError:
            raise
        # The decoders raise whatever their parsers stumble over when bytes are damaged.
        except Exception as error:
            raise self._error(
                f"the image cannot be decoded ({type(error).__name__}); "
                f"use an undamaged {', '.join(_FORMATS)}",
                row,
            ) from None

    def _pixels(self, image: Image.Image, row: int) -> npt.NDArray[np.uint8]:
        if image.width * image.height > _MAX_PIXELS:
            raise self._error(f"the image has more than {_MAX_PIXELS} pixels", row)
        if image.mode not in _GRAY + _COLOUR:
            raise self._error("the image has more than eight bits a channel; convert it", row)
        if self._resize is not None:
            size = (self._resize[1], self._resize[0])
            image = self._as_mode(image, row).resize(size, Image.Resampling.BILINEAR)
        if self._shape is None:
            self._shape = (1 if image.mode in _GRAY else 3, image.height, image.width)
        if (image.height, image.width) != self._shape[1:]:
            raise self._error(
                f"the image is {image.height}x{image.width}, the first one is "
                f"{self._shape[1]}x{self._shape[2]}; bring all images to one size",
                row,
            )
        return np.asarray(self._as_mode(image, row))

    def _as_mode(self, image: Image.Image, row: int) -> Image.Image:
        channels = self._shape[0] if self._shape else 1 if image.mode in _GRAY else 3
        if channels == 1 and image.mode not in _GRAY:
            raise self._error("a colour image in a dataset that began with a gray one", row)
        mode = "L" if channels == 1 else "RGB"
        return image if image.mode == mode else image.convert(mode)

    def _error(self, reason: str, row: int) -> ReadError:
        return ReadError(reason, row=row, column=self._column)


def channels_first(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Images (k, height, width) or (k, height, width, channels) as (k, channels, height, width).

    Four axes whose second is a number of channels are taken as they are.
    """
    if x.ndim == 3:
        return x[:, None]
    if x.ndim == 4 and x.shape[1] not in (1, 3) and x.shape[3] in (1, 3):
        return np.moveaxis(x, 3, 1)
    return x
