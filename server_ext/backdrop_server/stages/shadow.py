"""The shadow that the product casts on the new ground: a layer of its own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

SIDE = 640
"""Shadows are soft: they are drawn in a copy of at most this long side."""
FORESHORTENING = 0.35
"""How much shorter a length on the ground looks going away than across."""
THINNEST = 0.05
"""A shadow that falls straight sideways still has this share of the subject's height."""


@dataclasses.dataclass(frozen=True)
class ShadowKind:
    """Lengths are shares of the subject's height.

    ``length``: how far the top's shadow falls; ``blur``: standard deviation; ``contact``: the height
    of the part that darkens the ground where it stands; ``gap``: how far it hovers over the ground.
    """

    length: float
    blur: float
    contact: float
    gap: float
    density: float


KINDS: Mapping[str, ShadowKind] = {
    "soft": ShadowKind(length=0.45, blur=0.03, contact=0.05, gap=0, density=0.8),
    "hard": ShadowKind(length=0.6, blur=0.004, contact=0, gap=0, density=1),
    "floating": ShadowKind(length=0.15, blur=0.04, contact=0, gap=0.12, density=0.7),
}


def cast_shadow(alpha: Pixels, kind: str, direction: float, strength: float) -> Pixels:
    """The shadow of the subject ``alpha`` uint8 [H, W] on the ground: uint8 [H, W], 255 = no light.

    ``kind``: ``off`` or one of KINDS. ``direction``: where it falls in the picture, degrees clockwise:
    0 right, 90 towards the viewer, 180 left, 270 away. ``strength``: 0 to 1, the light that it takes.
    The subject stands on its lowest row; what lies behind it is part of the layer.
    """
    if kind == "off" or strength == 0 or not (alpha >= 128).any():
        return np.zeros_like(alpha)
    height, width = alpha.shape
    scale = min(1.0, SIDE / max(alpha.shape))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    density = _density(small, KINDS[kind], math.radians(direction))
    whole = cv2.resize(np.clip(density * strength, 0, 1), (width, height))
    shadow: Pixels = np.rint(whole * 255).astype(np.uint8)
    return shadow


def _density(share: Floats, kind: ShadowKind, angle: float) -> Floats:
    rows = np.flatnonzero(share.max(axis=1) >= 0.5)
    if not rows.size:
        return np.zeros_like(share)
    foot, tall = int(rows[-1]), float(rows[-1] - rows[0] + 1)
    cast = kind.density * _thrown(share, kind, angle, foot, tall)
    if not kind.contact:
        return cast
    feet = share.copy()
    feet[: max(0, round(foot - kind.contact * tall))] = 0
    lowered = np.roll(feet, max(1, round(0.01 * tall)), axis=0)
    return np.maximum(cast, _blurred(lowered, 0.4 * kind.blur * tall))


def _thrown(share: Floats, kind: ShadowKind, angle: float, foot: int, tall: float) -> Floats:
    """The silhouette laid on the ground: a pixel ``h`` above the foot falls ``length * h`` away."""
    aside = kind.length * math.cos(angle)
    down = FORESHORTENING * kind.length * math.sin(angle)
    if abs(down) < THINNEST:
        down = math.copysign(THINNEST, down)
    below = foot + kind.gap * tall
    matrix = np.array([[1, -aside, aside * foot], [0, -down, below + down * foot]])
    laid = cv2.warpAffine(share, matrix, (share.shape[1], share.shape[0]), flags=cv2.INTER_LINEAR)
    return _blurred(laid, kind.blur * tall)


def _blurred(image: Floats, deviation: float) -> Floats:
    soft: Floats = cv2.GaussianBlur(image, (0, 0), max(0.5, deviation))
    return soft
