"""Decode encoded images to pixels, and tell the layout of arrays of images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps

from workers.readers.contract import Options, ReadError

_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM")
_MAX_PIXELS = 1 << 25
_CHANNELS, _WITH_ALPHA = (1, 3), (2, 4)
_GRAY, _COLOUR = ("1", "L", "LA", "La"), ("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "HSV")


class Decoder:
    """Decodes one dataset's images, all of the first image's size.

    Images are turned as their EXIF orientation says. A gray image among colour ones becomes
    colour; a colour image among gray ones is refused, and so is a transparent one.
    """

    def __init__(self, options: Options, *, column: str) -> None:
        self._resize, self._notes, self._column = options.resize, options.notes, column
        self._shape: tuple[int, int, int] | None = None

    def decode(
        self, encoded: Sequence[bytes | memoryview | None], *, first: int
    ) -> npt.NDArray[np.uint8]:
        """Return pixels (k, channels, height, width) uint8; ``first`` is the row number of [0]."""
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
        # With damaged bytes the decoders raise exceptions of many classes.
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
        image = self._opaque(self._upright(image), row)
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
            raise self._error(
                "a colour image in a dataset that began with a gray one; convert all images to "
                "colour, or all to gray",
                row,
            )
        if channels == 3 and image.mode in _GRAY:
            self._notes.images_coloured += 1
        mode = "L" if channels == 1 else "RGB"
        return image if image.mode == mode else image.convert(mode)

    def _upright(self, image: Image.Image) -> Image.Image:
        """Return the image upright: cameras store it turned, with its orientation in EXIF."""
        if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
            return image
        self._notes.images_turned += 1
        return ImageOps.exif_transpose(image)

    def _opaque(self, image: Image.Image, row: int) -> Image.Image:
        """Return the image without its alpha channel, which must be fully opaque."""
        if not image.has_transparency_data:
            return image
        with_alpha = image.convert("LA" if image.mode in _GRAY else "RGBA")
        lowest, _ = with_alpha.getchannel("A").getextrema()
        if lowest != 255:
            raise self._error(
                "the image is transparent in part, and what stands behind it is not known; put it "
                "on a background (Image.alpha_composite) and save it without alpha",
                row,
            )
        return with_alpha.convert("L" if image.mode in _GRAY else "RGB")

    def _error(self, reason: str, row: int) -> ReadError:
        return ReadError(reason, row=row, column=self._column)


class Layout(StrEnum):
    """Meaning of the axes of an array of rows, after the axis of rows."""

    TABLE = "table"  # (n, d)
    GRAY = "gray"  # (n, height, width)
    CHANNELS_FIRST = "channels_first"  # (n, channels, height, width)
    CHANNELS_LAST = "channels_last"  # (n, height, width, channels)


def layout(shape: Sequence[int], column: str) -> Layout:
    """Return the meaning of the axes of an array (n, d), (n, h, w) or of four axes.

    Raise ``ReadError`` if it is ambiguous which axis of images holds the channels, or if the last
    channel may be alpha.
    """
    if len(shape) < 4:
        return Layout.TABLE if len(shape) == 2 else Layout.GRAY
    first, last = (shape[axis] in {*_CHANNELS, *_WITH_ALPHA} for axis in (1, 3))
    if first and not last:
        return Layout.CHANNELS_FIRST
    if first or not last:
        which = "both the first and the last axis of an image" if first else "no axis of an image"
        raise ReadError(
            f"{which} may be the channels (1 to 4), so it cannot be told what the axes "
            f"{tuple(shape[1:])} mean; save gray images without an axis of channels (n, height, "
            "width), others with 1, 3 or 4 channels before a height and width of more than 4 "
            "(n, channels, height, width), and what is no image as a table (n, d)",
            column=column,
        )
    if shape[3] in _WITH_ALPHA:
        raise ReadError(
            f"the last axis has {shape[3]} channels, so the last channel may be alpha; save the "
            f"images without it (x[..., :{shape[3] - 1}]), or, where all {shape[3]} count, with "
            "the channels before height and width",
            column=column,
        )
    return Layout.CHANNELS_LAST


def channels_first(x: npt.NDArray[Any], found: Layout) -> npt.NDArray[Any]:
    """Return images of this layout as (k, channels, height, width), and a table unchanged."""
    if found == Layout.GRAY:
        return x[:, None]
    return np.moveaxis(x, 3, 1) if found == Layout.CHANNELS_LAST else x
