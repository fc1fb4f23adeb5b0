"""Old backgrounds of four kinds, and light on them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

Floats = npt.NDArray[np.float32]

KINDS = ("white", "coloured", "gradient", "photo")


def ground(kind: str, number: int, side: int, photos: list[Path]) -> Floats:
    """Background ``number`` of a kind: sRGB, float32 [side, side, 3], 0 to 255."""
    draw = np.random.default_rng(100 * KINDS.index(kind) + number)
    if kind == "white":
        plain = np.full((side, side, 3), (255, 250, 255, 244, 252)[number % 5], np.float32)
        return plain * _shadow(side, (0, 0, 0.25, 0.12, 0)[number % 5])
    if kind == "coloured":
        return np.full((side, side, 3), draw.uniform(60, 245, 3), np.float32)
    if kind == "gradient":
        return _gradient(draw, side)
    return _crop(photos[number % len(photos)], draw, side)


def _shadow(side: int, strength: float) -> Floats:
    """The share of light that a soft shadow at the product's foot leaves."""
    y, x = np.mgrid[: 1 : side * 1j, : 1 : side * 1j]
    away = ((x - 0.52) / 0.28) ** 2 + ((y - 0.77) / 0.08) ** 2
    light: Floats = (1 - strength * np.exp(-away))[..., None].astype(np.float32)
    return light


def _gradient(draw: np.random.Generator, side: int) -> Floats:
    """A studio wall: light that falls off from a side, and from the middle."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    tilt, fall = draw.uniform(-0.08, 0.08, 2), draw.uniform(0.02, 0.1)
    light = 1 + tilt[0] * x + tilt[1] * y - fall * (x**2 + y**2)
    wall: Floats = (draw.uniform(120, 225, 3) * light[..., None]).astype(np.float32)
    return wall


def _crop(path: Path, draw: np.random.Generator, side: int) -> Floats:
    """A square of a photo, slightly out of focus as a background is."""
    rgb = np.asarray(Image.open(path).convert("RGB"))
    edge = min(rgb.shape[:2])
    top, left = (int(draw.integers(0, length - edge + 1)) for length in rgb.shape[:2])
    square = cv2.resize(rgb[top : top + edge, left : left + edge], (side, side))
    soft: Floats = cv2.GaussianBlur(square, (0, 0), 1.2).astype(np.float32)
    return soft


def photo_files(folders: list[Path]) -> list[Path]:
    """The photos that may serve as backgrounds, in order."""
    return list(_photo_files(folders))


def _photo_files(folders: list[Path]) -> Iterator[Path]:
    for folder in folders:
        for path in sorted(folder.iterdir()):
            if path.stem in {"reference", "grass", "chelsea", "plants-1"}:
                yield path
