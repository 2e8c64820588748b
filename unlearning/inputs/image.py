"""Images, channels first, of one size."""

from __future__ import annotations

import math
from collections.abc import Sequence

from unlearning.inputs._contract import Input, Plain


class Image(Input[Plain]):
    """Bytes are scaled to [0, 1], floats are unchanged."""

    options = Plain
    axes = ("channels", "height", "width")
    dtypes = ("uint8", "float32")
    scales = {"uint8": 1 / 255, "float32": 1.0}  # noqa: RUF012 - constant
    decides = ("inputs", "channels", "image_height", "image_width")

    def parameters(self, shape: Sequence[int], options: Plain) -> dict[str, int]:
        """Return the sizes, and their product for networks that flatten images."""
        channels, height, width = shape
        return {
            "inputs": math.prod(shape),
            "channels": channels,
            "image_height": height,
            "image_width": width,
        }


INPUT = Image()
