"""Pictures for the tests, made here: a product on white, a scene, and encodings of them."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]


def product(width: int = 300, height: int = 200, seed: int = 0) -> Pixels:
    """A patterned ellipse in the middle of a white picture; its core is opaque everywhere."""
    draw = np.random.default_rng(seed)
    rgb = np.full((height, width, 3), 255, np.uint8)
    pattern = draw.integers(0, 200, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    pattern = pattern.repeat(8, 0).repeat(8, 1)[:height, :width]
    inside = product_mask(width, height) == 0
    rgb[inside] = pattern[inside]
    return rgb


def product_mask(width: int = 300, height: int = 200) -> Pixels:
    """The true mask of ``product``: 255 = repaint, 0 = product."""
    y, x = np.mgrid[:height, :width]
    distance = ((x - width / 2) / (width * 0.3)) ** 2 + ((y - height / 2) / (height * 0.35)) ** 2
    mask: Pixels = np.where(distance < 1, 0, 255).astype(np.uint8)
    return mask


def scene(width: int = 240, height: int = 160, seed: int = 1) -> Pixels:
    """A colourful gradient with bands: something for the reference picture to say."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 32
    channels = [
        127 + 120 * np.sin(draw.uniform(0, 6) + draw.uniform(0.2, 2) * x + draw.uniform(0.2, 2) * y)
        for _ in range(3)
    ]
    rgb: Pixels = np.stack(channels, -1).astype(np.uint8)
    return rgb


def png(pixels: npt.NDArray[Any]) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def damaged_png() -> bytes:
    """A file whose header is in order, and whose pixels are not."""
    data = png(product())
    start = data.index(b"IDAT") + 40
    return data[:start] + bytes(200) + data[start + 200 :]


def decode(data: bytes) -> Pixels:
    image = Image.open(io.BytesIO(data))
    return np.asarray(image.convert("L" if image.mode == "L" else "RGB"))


def psnr(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> float:
    """Peak signal-to-noise ratio of two 8-bit pictures, dB; 99 for equal ones."""
    assert first.shape == second.shape
    error = float(np.mean((first.astype(np.float64) - second.astype(np.float64)) ** 2))
    return 99.0 if error == 0 else 10 * math.log10(255**2 / error)
